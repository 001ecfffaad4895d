//! The store: what was answered is still there after a restart; what is no store is left alone.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::onboarding::state::{Phase, TargetState};
use rollcall_aggregator::roll::{Entry, Roll};
use rollcall_aggregator::store::{Event, OpenError, Store, Write};
use rollcall_report::{Health, NodeReport, PassedOver, Reading, Subject};

fn entry() -> (Entry, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    let body = fs::read(path).expect("the sample");
    let mut roll = Roll::default();
    let report = parse(&body).expect("a report");
    let change = roll.admit(report, Digest::of(&[&body]), at(10)).expect("new");
    (change.entry, body)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// Opens a store that this process has only just closed: its thread may not be done yet.
async fn reopen(path: &Path) -> (Store, rollcall_aggregator::store::Contents) {
    loop {
        match Store::open(path) {
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            opened => return opened.expect("opens"),
        }
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, contents) = Store::open(&path).expect("new");
    assert!(contents.entries.is_empty() && contents.targets.is_empty());
    let installation = contents.installation;

    let (entry, body) = entry();
    let write = Write::Node { entry: Box::new(entry.clone()), report: Some(body.clone()) };
    store.write(write).await.expect("written");
    store.write(Write::Seen(vec![(entry.name.clone(), at(99))])).await.expect("written");
    let state = TargetState { phase: Phase::Submitting, ..TargetState::new(at(20)) };
    let event = Event {
        at: at(20),
        what: "submitting".into(),
        version: "0".into(),
        about: None,
        detail: None,
    };
    let write = Write::Target { name: "aios".into(), state: Box::new(state.clone()), event };
    store.write(write).await.expect("written");
    drop(store);

    let (store, contents) = reopen(&path).await;
    assert_eq!(contents.installation, installation, "made once");
    assert_eq!(contents.entries, [Entry { last_seen: at(99), ..entry.clone() }]);
    assert_eq!(contents.targets, [("aios".to_owned(), state)]);
    // The report is kept as it was sent, unknown fields and all.
    let database = rusqlite::Connection::open(&path).expect("opens");
    let kept: Vec<u8> =
        database.query_row("SELECT report FROM node", [], |row| row.get(0)).expect("a report");
    assert_eq!(kept, body);
    let events: i64 =
        database.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)).expect("a count");
    assert_eq!(events, 1);

    store.write(Write::Forget(entry.name)).await.expect("written");
    drop(store);
    assert!(reopen(&path).await.1.entries.is_empty());
}

/// Entries that were stored by an older version must be readable for ever.
#[test]
fn stored_entries_of_version_1_are_readable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored/entry-v1.json");
    if std::env::var_os("EXPECTORATE").is_some() {
        let text = serde_json::to_string_pretty(&entry().0).expect("JSON");
        fs::write(&path, text + "\n").expect("written");
    }
    let text = fs::read_to_string(path).expect("the frozen entry");
    let read: Entry = serde_json::from_str(&text).expect("readable");
    assert_eq!(read, entry().0);
}

/// One that holds all that an entry can: a lost GPU, a baseline, what the agent said of its looking.
fn full_entry() -> Entry {
    let (_, body) = entry();
    let mut report = parse(&body).expect("a report");
    let mut roll = Roll::default();
    let mut admit = |report: &NodeReport, second| {
        let digest = Digest::of(&[&[u8::try_from(second).expect("small")]]);
        let change = roll.admit(report.clone(), digest, at(second)).expect("one node");
        let entry = change.entry.clone();
        roll.confirm(change);
        entry
    };
    let Reading::Known(machine) = &mut report.inventory.machine else { panic!("the sample's") };
    machine.boot_id = Some("1b4f8e4c-5b0a-4d57-9c0e-1f2f3a4b5c6d".into());
    admit(&report, 10);
    let Reading::Known(gpus) = &mut report.inventory.gpus else { panic!("the sample's") };
    let Reading::Known(driver) = &mut gpus.nvidia_driver else { panic!("the sample's") };
    driver.gpus.truncate(1);
    gpus.lost = vec!["0000:18:00.0".into()];
    report.inventory.swap = Reading::failed("/proc/swaps: input/output error");
    report.health = Some(Health {
        failing_since: [(Subject::Swap, 20)].into(),
        lost_gpus: vec!["0000:18:00.0".into()],
        unknown_speeds: vec![],
    });
    report.passed_over = vec![PassedOver {
        subject: Subject::Disks,
        rule: "virtual".into(),
        count: 9,
        examples: vec!["loop0".into()],
    }];
    admit(&report, 20);
    let Reading::Known(gpus) = &mut report.inventory.gpus else { panic!("the sample's") };
    gpus.lost = vec![];
    gpus.nvidia_driver = Reading::failed("the driver does not answer");
    admit(&report, 30)
}

#[test]
fn stored_entries_with_losses_are_readable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored/entry-v1-losses.json");
    if std::env::var_os("EXPECTORATE").is_some() {
        let text = serde_json::to_string_pretty(&full_entry()).expect("JSON");
        fs::write(&path, text + "\n").expect("written");
    }
    let text = fs::read_to_string(path).expect("the frozen entry");
    let read: Entry = serde_json::from_str(&text).expect("readable");
    assert_eq!(read, full_entry());
    assert!(read.baseline.is_some() && read.health.is_some() && !read.passed_over.is_empty());
    assert_eq!(read.lost_gpus.len(), 1);
}

#[tokio::test]
async fn a_write_that_fails_is_told_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, _) = Store::open(&path).expect("new");
    // Somebody takes the table away: every write fails from now on.
    let database = rusqlite::Connection::open(&path).expect("opens");
    database.execute("ALTER TABLE node RENAME TO gone", []).expect("renamed");
    let (entry, body) = entry();
    let write = Write::Node { entry: Box::new(entry), report: Some(body) };
    let error = store.write(write).await.expect_err("there is no table").to_string();
    assert!(error.contains("no such table: node"), "{error}");
    let count: i64 =
        database.query_row("SELECT count(*) FROM gone", [], |row| row.get(0)).expect("a count");
    assert_eq!(count, 0);
    // And the store lives on.
    database.execute("ALTER TABLE gone RENAME TO node", []).expect("renamed");
    store.write(Write::Seen(vec![])).await.expect("written");
}

#[test]
fn nobody_else_may_read_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    // One that was there already, open to all.
    fs::write(&path, "").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened");
    let _store = Store::open(&path).expect("new");
    for file in fs::read_dir(folder.path()).expect("a folder") {
        let file = file.expect("a file");
        let mode = file.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.path().display());
    }
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let in_use = folder.path().join("in-use.db");
    let _first = Store::open(&in_use).expect("new");
    let by_another_name = folder.path().join("link.db");
    std::os::unix::fs::symlink(&in_use, &by_another_name).expect("linked");
    let foreign = folder.path().join("foreign.db");
    let database = rusqlite::Connection::open(&foreign).expect("opens");
    database.execute("CREATE TABLE other (x)", []).expect("made");
    drop(database);
    let garbage = folder.path().join("garbage.db");
    fs::write(&garbage, "not a database, and longer than the header of one. ".repeat(20))
        .expect("written");
    let newer = folder.path().join("newer.db");
    let database = rusqlite::Connection::open(&newer).expect("opens");
    database.pragma_update(None, "user_version", 99).expect("updated");
    drop(database);
    let nowhere = folder.path().join("no/such/folder/rollcall.db");
    for (path, words) in [
        (&in_use, "in use by another rollcall-aggregator"),
        (&by_another_name, "in use by another rollcall-aggregator"),
        (&foreign, "is a database of something else"),
        (&garbage, "is it a rollcall database"),
        (&newer, "has version 99, this program knows up to 1"),
        (&nowhere, "cannot be used"),
    ] {
        let before = fs::read(path).ok();
        let message = Store::open(path).expect_err(words).to_string();
        assert!(message.contains(words), "{message}");
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(fs::read(path).ok() == before, "{} was changed", path.display());
    }
}
