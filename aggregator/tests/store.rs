//! The store: what was answered is still there after a restart; what is no store is left alone.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use rollcall_aggregator::class::{NodeClass, NodeClassId, Origin, Shape};
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::onboarding::state::{
    Approval, Past, Phase, Presence, Reply, TargetState, Will,
};
use rollcall_aggregator::roll::departure::Departure;
use rollcall_aggregator::roll::{Entry, Roll};
use rollcall_aggregator::store::{Event, HistoryOf, JournalLine, OpenError, Sent, Store, Write};
use rollcall_aggregator::targets::Destination;
use rollcall_report::{Health, NodeReport, PassedOver, Reading, Subject};

fn entry() -> (Entry, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    let body = fs::read(path).expect("the sample");
    let mut roll = Roll::default();
    let report = parse(&body).expect("a report");
    let change = roll.admit(report, Digest::of(&[&body]), None, at(10)).expect("new");
    (change.entry.into_inner(), body)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn node(entry: &Entry, body: &[u8], departure: Option<Departure>) -> Write {
    Write::Node { entry: entry.clone().into(), report: Some(body.to_vec()), departure }
}

fn departure(id: &str, second: i64) -> Departure {
    Departure { node_id: id.parse().expect("an id"), at: at(second), renamed: false }
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
    store.write(node(&entry, &body, None)).await.expect("written");
    store.write(Write::Seen(vec![(entry.name.clone(), at(99))])).await.expect("written");
    let state = TargetState { phase: Phase::Submitting, ..TargetState::new(at(20)) };
    let event = Event {
        at: at(20),
        what: "submitting".into(),
        version: "0".into(),
        about: None,
        detail: None,
        sends: vec![],
    };
    let write = Write::Target { name: "aios".into(), state: Box::new(state.clone()), event };
    store.write(write).await.expect("written");
    drop(store);

    let (store, contents) = reopen(&path).await;
    assert_eq!(contents.installation, installation, "made once");
    assert_eq!(contents.entries, [Entry { last_seen: at(99), ..entry.clone() }]);
    assert_eq!(contents.targets, [("aios".to_owned(), state, Will::default())]);
    // The report is kept as it was sent, unknown fields and all.
    let database = rusqlite::Connection::open(&path).expect("opens");
    let kept: Vec<u8> =
        database.query_row("SELECT report FROM report", [], |row| row.get(0)).expect("a report");
    assert_eq!(kept, body);
    let events: i64 =
        database.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)).expect("a count");
    assert_eq!(events, 1);

    let left = departure("node-1", 100);
    store.write(Write::Forget(entry.name, left.clone())).await.expect("written");
    drop(store);
    let contents = reopen(&path).await.1;
    assert!(contents.entries.is_empty());
    assert_eq!(contents.departures, [left]);
}

/// Node classes are for ever, in the order in which they came.
#[tokio::test]
async fn classes_outlive_their_nodes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, contents) = Store::open(&path).expect("new");
    assert!(contents.classes.is_empty());
    let (mut entry, body) = entry();
    let class = |name: &str| NodeClass {
        id: NodeClassId::allocate(),
        name: name.to_owned(),
        shape: Shape::of(&entry).expect("a shape"),
        origin: Origin::Allocated,
        since: at(10),
    };
    let classes = [class("zzz"), class("aaa")];
    for (known, class) in classes.iter().enumerate() {
        let class = Box::new(class.clone());
        store.write(Write::Class { class, known }).await.expect("written");
    }
    entry.node_class = Some(classes[0].id);
    store.write(node(&entry, &body, None)).await.expect("written");
    drop(store);

    let (store, contents) = reopen(&path).await;
    assert_eq!(contents.entries, [entry.clone()], "with its class");
    assert_eq!(contents.classes, classes);
    let again = Write::Class { class: Box::new(classes[0].clone()), known: 2 };
    assert!(store.write(again).await.is_err(), "an id stands once");
    store.write(Write::Forget(entry.name, departure("node-1", 100))).await.expect("written");
    drop(store);
    let contents = reopen(&path).await.1;
    assert_eq!((contents.entries.len(), contents.classes.as_slice()), (0, &classes[..]));
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
    // Written before changes were counted.
    assert_eq!(read, Entry { revision: 0, ..entry().0 });
}

/// One that holds all that an entry can: a lost GPU, a baseline, what the agent said of its looking.
fn full_entry() -> Entry {
    let (_, body) = entry();
    let mut report = parse(&body).expect("a report");
    let mut roll = Roll::default();
    let mut admit = |report: &NodeReport, second| {
        let digest = Digest::of(&[&[u8::try_from(second).expect("small")]]);
        let change = roll.admit(report.clone(), digest, None, at(second)).expect("one node");
        let entry = change.entry.clone().into_inner();
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
    assert_eq!(read, Entry { revision: 0, gpus_unanswered: None, ..full_entry() });
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
    let error =
        store.write(node(&entry, &body, None)).await.expect_err("there is no table").to_string();
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
        (&newer, "has version 99, this program knows up to 4"),
        (&nowhere, "cannot be used"),
    ] {
        let before = fs::read(path).ok();
        let message = Store::open(path).expect_err(words).to_string();
        assert!(message.contains(words), "{message}");
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(fs::read(path).ok() == before, "{} was changed", path.display());
    }
}

/// The tables of version 1, as it made them.
const VERSION_1: &str = "
    CREATE TABLE installation (id TEXT NOT NULL) STRICT;
    CREATE TABLE node (
        name TEXT PRIMARY KEY,
        entry TEXT NOT NULL,
        report BLOB,
        last_seen_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE target (name TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        target TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
";

const INSTALLATION: &str = "6f1c2a34-5b6d-4e7f-8a90-b1c2d3e4f506";

/// What both of the records below are about.
const ABOUT_1: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A state as version 1 stored it: of a registration that was answered and not yet read back.
const STATE_1: &str = r#"{
    "phase": "submitting",
    "since": "1970-01-01T00:00:20Z",
    "detail": "the parser cannot be used now",
    "about": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "entryAt": {
        "clusterId": "west",
        "createUrl": "http://parser.example/",
        "readUrl": "http://gateway.example/"
    },
    "reply": {"words": "POST answered 500", "isFinal": false},
    "failingSince": "1970-01-01T00:00:10Z",
    "attempts": 3,
    "rejections": 2,
    "nextTry": "1970-01-01T00:00:30Z"
}"#;

/// The state that takes the fewest words.
const NEW_STATE_1: &str =
    r#"{"phase": "waiting", "since": "1970-01-01T00:00:05Z", "attempts": 0, "rejections": 0}"#;

const EVENT_1: &str = r#"{
    "at": "1970-01-01T00:00:20Z",
    "what": "submitting",
    "version": "0.1.0",
    "about": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "detail": "why"
}"#;

/// A store as version 1 left it.
fn make_version_1(path: &Path) {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored/entry-v1.json");
    let stored = fs::read_to_string(stored).expect("the frozen entry");
    let database = rusqlite::Connection::open(path).expect("opens");
    database
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {VERSION_1}"
        ))
        .expect("made");
    for (statement, values) in [
        ("INSERT INTO installation (id) VALUES (?1)", &[INSTALLATION][..]),
        (
            "INSERT INTO node (name, entry, report, last_seen_ms) VALUES ('node-1', ?1, x'7b7d', 99000)",
            &[&stored],
        ),
        ("INSERT INTO target (name, state) VALUES ('aios', ?1)", &[STATE_1]),
        ("INSERT INTO target (name, state) VALUES ('other', ?1)", &[NEW_STATE_1]),
        ("INSERT INTO journal (target, event) VALUES ('aios', ?1)", &[EVENT_1]),
    ] {
        let inserted = database.execute(statement, rusqlite::params_from_iter(values));
        assert_eq!(inserted.expect(statement), 1, "{statement}");
    }
}

fn schema(path: &Path) -> (u32, Vec<String>) {
    let database = rusqlite::Connection::open(path).expect("opens");
    let version =
        database.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a number");
    let mut tables = database
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .expect("readable");
    let tables = tables.query_map([], |row| row.get(0)).expect("readable");
    (version, tables.map(|table| table.expect("text")).collect())
}

#[tokio::test]
async fn a_store_of_version_1_is_brought_up_to_today_and_keeps_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    make_version_1(&path);
    let state = TargetState {
        phase: Phase::Submitting,
        detail: Some("the parser cannot be used now".into()),
        about: Some(Digest::try_from(ABOUT_1.to_owned()).expect("a digest")),
        reply: Some(Reply { words: "POST answered 500".into(), is_final: false, is_yes: false }),
        failing_since: Some(at(10)),
        attempts: 3,
        rejections: 2,
        next_try: Some(at(30)),
        past: Past {
            entry_at: Some(Destination {
                cluster_id: "west".into(),
                create_url: "http://parser.example/".into(),
                read_url: "http://gateway.example/".into(),
            }),
            ..Past::default()
        },
        ..TargetState::new(at(20))
    };
    // The second time it is one of today's.
    for nth in ["first", "second"] {
        let (store, contents) = reopen(&path).await;
        assert_eq!(contents.installation.to_string(), INSTALLATION, "{nth}");
        assert_eq!(
            contents.entries,
            [Entry { last_seen: at(99), revision: 0, ..entry().0 }],
            "{nth}"
        );
        assert_eq!(contents.departures, [], "{nth}");
        let mut targets = contents.targets;
        targets.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let new = TargetState::new(at(5));
        let expected = [
            ("aios".to_owned(), state.clone(), Will::default()),
            ("other".to_owned(), new, Will::default()),
        ];
        assert_eq!(targets, expected, "{nth}");
        let lines = store.history(HistoryOf { target: None, limit: 9 }).await.expect("readable");
        let event = Event {
            at: at(20),
            what: "submitting".into(),
            version: "0.1.0".into(),
            about: state.about,
            detail: Some("why".into()),
            sends: vec![],
        };
        assert_eq!(lines, [JournalLine { id: 1, target: "aios".into(), event }], "{nth}");
    }
    let made_today = folder.path().join("new.db");
    drop(Store::open(&made_today).expect("new"));
    assert_eq!(schema(&path), schema(&made_today), "as if it had been made today");
    let database = rusqlite::Connection::open(&path).expect("opens");
    let report: Vec<u8> =
        database.query_row("SELECT report FROM report", [], |row| row.get(0)).expect("a report");
    assert_eq!(report, b"{}");
}

/// What versions 2 and 3 added to version 1.
const UP_TO_3: &str = "
    ALTER TABLE target ADD COLUMN will TEXT;
    CREATE TABLE departure (node_id TEXT PRIMARY KEY, departure TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX journal_by_target ON journal (target, id);
    CREATE TABLE node_class (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        class TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 3;
";

/// All that is stored of a node: its name, its report, when it was last seen.
fn kept(path: &Path) -> Vec<(String, Option<Vec<u8>>, i64)> {
    let database = rusqlite::Connection::open(path).expect("opens");
    let mut rows = database
        .prepare(
            "SELECT node.name, report, ms FROM node LEFT JOIN report USING (name)
             LEFT JOIN last_seen USING (name) ORDER BY node.name",
        )
        .expect("readable");
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    rows.expect("readable").map(|row| row.expect("a node")).collect()
}

#[tokio::test]
async fn a_store_of_version_3_is_brought_up_to_today_and_keeps_its_nodes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    make_version_1(&path);
    let (second, body) = entry();
    let second = Entry { name: "node-2".parse().expect("a name"), ..second };
    let database = rusqlite::Connection::open(&path).expect("opens");
    database.execute_batch(UP_TO_3).expect("changed");
    let text = serde_json::to_string(&second).expect("JSON");
    // One that was stored without its report.
    let insert = "INSERT INTO node (name, entry, last_seen_ms) VALUES ('node-2', ?1, 77000)";
    database.execute(insert, [text]).expect("inserted");
    drop(database);

    let (store, contents) = reopen(&path).await;
    let first = Entry { last_seen: at(99), revision: 0, ..entry().0 };
    let mut entries = contents.entries;
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(entries, [first.clone(), Entry { last_seen: at(77), ..second.clone() }]);
    assert_eq!(contents.installation.to_string(), INSTALLATION);
    assert_eq!(
        kept(&path),
        [("node-1".into(), Some(b"{}".to_vec()), 99_000), ("node-2".into(), None, 77_000)]
    );

    // What comes without a report leaves the one that is stored.
    let rebound = Entry { rebinding: true, ..first };
    let write = Write::Node { entry: rebound.into(), report: None, departure: None };
    store.write(write).await.expect("written");
    store.write(node(&second, &body, None)).await.expect("written");
    let seen = vec![(second.name.clone(), at(120)), ("nobody".parse().expect("a name"), at(120))];
    store.write(Write::Seen(seen)).await.expect("written");
    assert_eq!(
        kept(&path),
        [("node-1".into(), Some(b"{}".to_vec()), 99_000), ("node-2".into(), Some(body), 120_000)]
    );
    store.write(Write::Forget(second.name, departure("node-1", 130))).await.expect("written");
    drop(store);
    let entries = reopen(&path).await.1.entries;
    assert!(entries.iter().all(|entry| entry.rebinding) && entries.len() == 1, "{entries:?}");
    let database = rusqlite::Connection::open(&path).expect("opens");
    for table in ["node", "report", "last_seen"] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = database.query_row(&count, [], |row| row.get(0)).expect("a count");
        assert_eq!(count, 1, "{table}");
    }
}

/// How many transactions the write-ahead log holds. Each ends with a frame that has the database's size.
/// Source: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
fn transactions(path: &Path) -> usize {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;
    let log = fs::read(path.with_extension("db-wal")).expect("the log");
    let frames = log.get(HEADER..).unwrap_or_default().chunks_exact(FRAME);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

#[tokio::test]
async fn a_burst_waits_for_the_disk_a_few_times() {
    const NODES: usize = 1000;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, _) = Store::open(&path).expect("new");
    let (one, body) = entry();
    let before = transactions(&path);
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..NODES {
        let name = format!("node-{number}");
        let (name, node_id) = (name.parse().expect("a name"), name.parse().expect("an id"));
        let write = node(&Entry { name, node_id, ..one.clone() }, &body, None);
        let store = store.clone();
        writes.spawn(async move { store.write(write).await });
    }
    while let Some(written) = writes.join_next().await {
        written.expect("no panic").expect("written");
    }
    let burst = transactions(&path) - before;
    assert!((1..=NODES / 100).contains(&burst), "{burst} transactions");

    // Whoever comes alone is not kept waiting, and what is stored already is not written again.
    let seen = |second| Write::Seen(vec![(one.name.clone(), at(second))]);
    for (second, more) in [(20, 1), (20, 0), (30, 1)] {
        let before = transactions(&path);
        store.write(seen(second)).await.expect("written");
        assert_eq!(transactions(&path) - before, more, "{second}");
    }
    drop(store);
    assert_eq!(reopen(&path).await.1.entries.len(), NODES);
}

#[tokio::test]
async fn what_operators_want_outlives_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, _) = Store::open(&path).expect("new");
    let write_will = |name: &str, will: &Will| Write::Will {
        before: Box::default(),
        name: name.into(),
        state: Box::new(TargetState::new(at(1))),
        will: Box::new(will.clone()),
        event: Event { at: at(2), ..Event::now("submit") },
    };
    let will = Will {
        presence: Presence::GoneWithoutInfrastructure,
        asked: Some(at(2)),
        adopt: true,
        partial: true,
        approved: Some(Approval { digest: Digest::of(&[b"proposal"]), at: at(29) }),
        infrastructure_asked: Some(at(3)),
    };
    // One that the store does not know yet, and one that stands somewhere already.
    store.write(write_will("new", &will)).await.expect("written");
    let state = TargetState { phase: Phase::Registered, ..TargetState::new(at(4)) };
    let write = |state: &TargetState| Write::Target {
        name: "known".into(),
        state: Box::new(state.clone()),
        event: Event { at: at(4), ..Event::now(state.phase.as_str()) },
    };
    store.write(write(&state)).await.expect("written");
    store.write(write_will("known", &will)).await.expect("written");
    // A new state leaves what is wanted as it is.
    let drifted = TargetState { phase: Phase::Drifted, ..TargetState::new(at(5)) };
    store.write(write(&drifted)).await.expect("written");
    drop(store);
    let mut targets = reopen(&path).await.1.targets;
    targets.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("known".to_owned(), drifted, will.clone()),
        ("new".to_owned(), TargetState::new(at(1)), will),
    ];
    assert_eq!(targets, expected, "a will does not undo a state");
}

#[tokio::test]
async fn the_journal_is_read_back_by_target_and_from_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, _) = Store::open(&path).expect("new");
    let sends = vec![
        Sent {
            request: "PUT http://gateway.example/clusters/update/west".into(),
            body_digest: Some(Digest::of(&[b"body"])),
        },
        Sent {
            request: "DELETE http://gateway.example/clusters/delete/west".into(),
            body_digest: None,
        },
    ];
    let mut written = Vec::new();
    for (id, target, sends) in [
        (1, "a", vec![]),
        (2, "b", sends.clone()),
        (3, "a", sends),
        (4, "a", vec![]),
        (5, "b", vec![]),
    ] {
        let event = Event {
            at: at(id),
            detail: (id % 2 == 0).then(|| format!("detail {id}")),
            about: Some(Digest::of(&[target.as_bytes()])),
            sends,
            ..Event::now(&format!("event {id}"))
        };
        let write = Write::Event { name: target.into(), event: event.clone() };
        store.write(write).await.expect("written");
        written.push(JournalLine { id, target: target.into(), event });
    }
    drop(store);
    for nth in ["first", "second"] {
        let store = reopen(&path).await.0;
        for (target, limit, expected) in [
            (None, 100, &[1, 2, 3, 4, 5][..]),
            (None, 2, &[4, 5]),
            (Some("a"), 100, &[1, 3, 4]),
            (Some("a"), 2, &[3, 4]),
            (Some("b"), 1, &[5]),
            (Some("b"), 0, &[]),
            (Some("nobody"), 100, &[]),
        ] {
            let of = HistoryOf { target: target.map(str::to_owned), limit };
            let lines = store.history(of).await.expect("readable");
            let expected: Vec<JournalLine> =
                written.iter().filter(|line| expected.contains(&line.id)).cloned().collect();
            assert_eq!(lines, expected, "{target:?}, {limit}, opened the {nth} time");
        }
    }
    // A line that cannot be read is told, and is in the way of its own target alone.
    let database = rusqlite::Connection::open(&path).expect("opens");
    let event = "INSERT INTO journal (target, event) VALUES ('broken', '{}')";
    database.execute(event, []).expect("written");
    let store = reopen(&path).await.0;
    for (target, is_readable) in [("a", true), ("broken", false)] {
        let of = HistoryOf { target: Some(target.to_owned()), limit: 9 };
        assert_eq!(store.history(of).await.is_ok(), is_readable, "{target}");
    }
}

/// What the store holds of departures, by id, and which nodes.
async fn held(path: &Path) -> (Vec<Departure>, Vec<String>) {
    let contents = reopen(path).await.1;
    let mut departures = contents.departures;
    departures.sort_unstable_by(|one, other| one.node_id.cmp(&other.node_id));
    let nodes = contents.entries.iter().map(|entry| entry.name.to_string()).collect();
    (departures, nodes)
}

#[tokio::test]
async fn departures_come_and_go_with_what_brings_them() {
    let (one, body) = entry();
    let named = |name: &str, id: &str| Entry {
        name: name.parse().expect("a name"),
        node_id: id.parse().expect("an id"),
        ..one.clone()
    };
    let renamed = Departure { renamed: true, ..departure("one", 20) };
    let forget = |name: &str, left: Departure| Write::Forget(name.parse().expect("a name"), left);
    for (what, writes, left, nodes) in [
        (
            "forgotten",
            vec![node(&named("a", "one"), &body, None), forget("a", departure("one", 10))],
            vec![departure("one", 10)],
            vec![],
        ),
        (
            "one that is not on the roll",
            vec![Write::Departed(vec![departure("ghost", 10)])],
            vec![departure("ghost", 10)],
            vec![],
        ),
        (
            "told twice",
            vec![
                Write::Departed(vec![departure("ghost", 10)]),
                Write::Departed(vec![departure("ghost", 30)]),
            ],
            vec![departure("ghost", 10)],
            vec![],
        ),
        (
            "back",
            vec![
                Write::Departed(vec![departure("one", 10)]),
                Write::Departed(vec![departure("two", 10)]),
                node(&named("a", "one"), &body, None),
            ],
            vec![departure("two", 10)],
            vec!["a"],
        ),
        (
            "renamed",
            vec![
                node(&named("a", "one"), &body, None),
                node(&named("a", "two"), &body, Some(renamed.clone())),
            ],
            vec![renamed.clone()],
            vec!["a"],
        ),
        (
            "renamed, and another node takes the id",
            vec![
                node(&named("a", "one"), &body, None),
                node(&named("a", "two"), &body, Some(renamed)),
                node(&named("b", "one"), &body, None),
            ],
            vec![],
            vec!["a", "b"],
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rollcall.db");
        let (store, _) = Store::open(&path).expect("new");
        for write in writes {
            store.write(write).await.expect("written");
        }
        drop(store);
        let (found, mut on_roll) = held(&path).await;
        on_roll.sort_unstable();
        assert_eq!(found, left, "{what}");
        assert_eq!(on_roll, nodes, "{what}");
    }
}

#[tokio::test]
async fn a_renamed_node_leaves_its_old_id_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, _) = Store::open(&path).expect("new");
    let (_, body) = entry();
    let mut roll = Roll::default();
    for (second, id) in [(10, "one"), (20, "two")] {
        let mut report = parse(&body).expect("a report");
        report.node.proposed_id = id.parse().expect("an id");
        let change =
            roll.admit(report, Digest::of(&[id.as_bytes()]), None, at(second)).expect("one node");
        let write = node(&change.entry, &body, change.departure.clone());
        store.write(write).await.expect("written");
        roll.confirm(change);
    }
    drop(store);
    let (departures, nodes) = held(&path).await;
    assert_eq!(departures, [Departure { renamed: true, ..departure("one", 20) }]);
    assert_eq!(nodes, ["node-1"]);
}

#[tokio::test]
async fn a_node_is_forgotten_with_its_departure_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, _) = Store::open(&path).expect("new");
    let (one, body) = entry();
    store.write(node(&one, &body, None)).await.expect("written");
    let database = rusqlite::Connection::open(&path).expect("opens");
    database.execute("ALTER TABLE departure RENAME TO gone", []).expect("renamed");
    let forget = Write::Forget(one.name.clone(), departure("node-1", 100));
    let error = store.write(forget).await.expect_err("there is no table").to_string();
    assert!(error.contains("no such table: departure"), "{error}");
    database.execute("ALTER TABLE gone RENAME TO departure", []).expect("renamed");
    drop(store);
    assert_eq!(held(&path).await, (vec![], vec!["node-1".to_owned()]));
}

#[tokio::test]
async fn a_file_that_is_replaced_under_way_is_not_written_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rollcall.db");
    let (store, _) = Store::open(&path).expect("new");
    let aside = folder.path().join("aside.db");
    fs::rename(&path, &aside).expect("moved");
    let gone = store.write(Write::Seen(vec![])).await.expect_err("it is gone").to_string();
    assert!(gone.contains("somebody removed or replaced it"), "{gone}");
    let (second, _) = Store::open(&path).expect("another one in its place");
    let replaced = store.write(Write::Seen(vec![])).await.expect_err("it is another").to_string();
    assert!(replaced.contains("somebody removed or replaced it"), "{replaced}");
    drop(second);
    fs::rename(&aside, &path).expect("back");
    store.write(Write::Seen(vec![])).await.expect("it is there again");
}
