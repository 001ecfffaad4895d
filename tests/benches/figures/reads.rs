//! How long people wait for a large cluster: the operator's commands from their start to their end, and
//! the page until its first byte.

use std::process::{Command, Stdio};
use std::time::Instant;

use rollcall_tests::bed::Aggregator;
use rollcall_tests::process::program;

use crate::Plan;
use crate::figure::Figure;
use crate::large::{Large, loaded};
use crate::process::{look, median, millis};

const ROUNDS: usize = 10;
const BOUND_MS: f64 = 300.0;

pub(crate) fn measure(plan: &Plan, large: &mut Option<Large>) -> Vec<Figure> {
    let aggregator = &loaded(large, plan.nodes).aggregator;
    let mut figures = Vec::new();
    for arguments in [&["nodes"][..], &["nodes", "--output", "json"], &["document"], &["status"]] {
        let times = (0..ROUNDS).map(|_| {
            let begun = Instant::now();
            print(aggregator, arguments);
            millis(begun.elapsed())
        });
        let what = format!("rollcall-aggregator {}", arguments.join(" "));
        figures.push(Figure::new(what, "ms", median(times.collect())).at_most(BOUND_MS));
    }
    for path in ["/", "/v1/nodes", "/metrics"] {
        let looks: Vec<_> = (0..ROUNDS).map(|_| look(aggregator.admin, path)).collect();
        let first = median(looks.iter().map(|(first, ..)| *first).collect());
        let whole = median(looks.iter().map(|(_, whole, _)| *whole).collect());
        let bytes = looks.first().map_or(0, |(.., bytes)| *bytes);
        let figure = Figure::new(format!("GET {path}, first byte"), "ms", first);
        let figure = figure.note(format!("{bytes} bytes, whole in {whole:.1} ms"));
        figures.push(if path == "/" { figure.at_most(BOUND_MS) } else { figure });
    }
    figures
}

fn print(aggregator: &Aggregator, arguments: &[&str]) {
    let output = Command::new(program("rollcall-aggregator"))
        .args(arguments)
        .env("ROLLCALL_SERVER", format!("http://{}", aggregator.admin))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}
