//! The page of the real program: news that reach whoever follows them, and that do not hold up a stop.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rollcall_tests::bed::{Bed, get, report};

/// Less than a stop waits for what is under way.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn news_come_and_do_not_hold_up_a_stop() {
    let bed = Bed::new("");
    let mut aggregator = bed.aggregator(&[]);
    let mut stream = TcpStream::connect(aggregator.admin).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
    let host = aggregator.admin;
    write!(stream, "GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("sent");
    let mut lines = BufReader::new(stream).lines();
    let mut wait_for = |what: &str| {
        let found = lines.by_ref().map_while(Result::ok).find(|line| line.contains(what));
        assert!(found.is_some(), "the stream ended, or told nothing, before {what:?}");
    };
    wait_for("text/event-stream");
    wait_for("retry: 2000");

    let page = get(aggregator.admin, "/", "");
    assert_eq!(page.status, 200, "{}", page.head);
    assert!(!page.body.contains("data-node=\"node-1\""), "{}", page.body);
    aggregator.accept(&report("node-1", 1));
    wait_for("event: changed");
    let page = get(aggregator.admin, "/", "");
    assert!(page.body.contains("data-node=\"node-1\""), "{}", page.body);

    let before = Instant::now();
    let status = aggregator.daemon.terminate();
    assert!(status.success(), "{status}");
    assert!(before.elapsed() < AT_ONCE, "it took {:?}", before.elapsed());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(!rest.iter().any(|line| line.contains("event:")), "{rest:?}");
}
