//! Intake with a store that fails: what is refused is not on the roll.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use rollcall_aggregator::aggregator::Aggregator;
use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::intake::accept::accept;
use rollcall_aggregator::intake::authenticate::Identity;
use rollcall_aggregator::metrics::Metrics;
use rollcall_aggregator::store::Store;
use rollcall_report::RefusalCode;

fn body(file: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample").join(file);
    fs::read(path).expect("the sample").into()
}

#[tokio::test]
async fn what_could_not_be_stored_is_refused_and_not_on_the_roll() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, contents) = Store::open(&path).expect("a new store");
    let file = ClusterFile::parse("cluster: {id: a, regionId: b}").expect("valid");
    let metrics = Metrics::new().expect("metrics");
    let interval = Duration::from_mins(1);
    let aggregator = Arc::new(Aggregator::new(file, interval, store, contents, metrics));
    let accept = |file| accept(&aggregator, &Identity::JoinToken, body(file));

    accept("node-1.json").await.expect("stored");
    let database = rusqlite::Connection::open(&path).expect("opens");
    database.execute("ALTER TABLE node RENAME TO gone", []).expect("renamed");

    let refusal = accept("node-2.json").await.expect_err("not stored");
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert!(refusal.message.contains("try again"), "{}", refusal.message);
    assert_eq!(aggregator.assemble().document.nodes.count, 1, "as if it had not been sent");
    let unchanged = accept("node-1.json").await.expect("needs no write");
    assert!(!unchanged.changed);

    database.execute("ALTER TABLE gone RENAME TO node", []).expect("renamed");
    let accepted = accept("node-2.json").await.expect("stored");
    assert!(accepted.changed, "the same report again is news still");
    assert_eq!(aggregator.assemble().document.nodes.count, 2);
}
