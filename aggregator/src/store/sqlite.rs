//! The SQLite database: one file on a local disk, write-ahead log, one writer.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, Params, params};
use serde::de::DeserializeOwned;
use thiserror::Error;
use uuid::Uuid;

use super::{Contents, Event, HistoryOf, JournalLine, OpenError, Write};
use crate::onboarding::state::TargetState;
use crate::roll::Entry;
use crate::roll::departure::Departure;
use crate::roll::pool::Pool;

/// The version of the tables below, kept in the file as `user_version`.
const VERSION: u32 = 4;

const TABLES: &str = "
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
";

/// What version 2 added to version 1.
const FROM_1_TO_2: &str = "
    ALTER TABLE target ADD COLUMN will TEXT;
    CREATE TABLE departure (node_id TEXT PRIMARY KEY, departure TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX journal_by_target ON journal (target, id);
";

/// What version 3 added to version 2.
const FROM_2_TO_3: &str = "
    CREATE TABLE node_class (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        class TEXT NOT NULL
    ) STRICT;
";

/// What version 4 changed in version 3: what a start reads, what it does not and what is written without
/// the rest are apart, and a node that is read is seldom more than one page.
const FROM_3_TO_4: &str = "
    ALTER TABLE node RENAME TO node_3;
    CREATE TABLE node (name TEXT PRIMARY KEY, entry TEXT NOT NULL) STRICT;
    CREATE TABLE report (name TEXT PRIMARY KEY, report BLOB NOT NULL) STRICT;
    CREATE TABLE last_seen (name TEXT PRIMARY KEY, ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO node SELECT name, entry FROM node_3;
    INSERT INTO report SELECT name, report FROM node_3 WHERE report IS NOT NULL;
    INSERT INTO last_seen SELECT name, last_seen_ms FROM node_3;
    DROP TABLE node_3;
";

/// How many pages the write-ahead log has when it is carried over into the database, which waits for the
/// disk twice: 32 MiB of them.
const LOG_PAGES: u32 = 8192;
/// What is left of a log that had to hold more, as the one of a new version's first start.
const LOG_BYTES: u32 = 48 << 20;

/// How many lines of the journal are kept at each start: years, unless a network fails all the time.
const JOURNAL_LINES: u32 = 100_000;

const PRUNE_JOURNAL: &str =
    "DELETE FROM journal WHERE id <= (SELECT coalesce(max(id), 0) FROM journal) - ?1";

/// The open database.
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    /// Held as long as the database is open: a second aggregator on one store would register twice.
    lock: File,
}

/// Why a commit failed; then nothing of it is stored.
#[derive(Debug, Error)]
pub(super) enum CommitError {
    #[error("SQLite refused the transaction")]
    Database { source: rusqlite::Error },
    #[error("a record could not be encoded")]
    Encode { source: serde_json::Error },
    #[error(
        "{} is not the file any more that was opened: somebody removed or replaced it; restart the aggregator once it is back", path.display()
    )]
    Replaced { path: PathBuf },
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<(Self, Contents), OpenError> {
        let lock = lock(path)?;
        let refused = |source| OpenError::Database { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(refused)?;
        // Before anything is changed, and switching to the write-ahead log is a change.
        let found: u32 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(refused)?;
        if found > VERSION {
            return Err(OpenError::TooNew { path: path.to_owned(), found, known: VERSION });
        }
        let mut database = Self { connection, path: path.to_owned(), lock };
        if found == 0 {
            let others: u32 = database
                .connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
                .map_err(refused)?;
            if others > 0 {
                return Err(OpenError::NotOurs { path: path.to_owned() });
            }
        }
        // One after the other, so that a store made today and one brought up to today are the same.
        for step in [TABLES, FROM_1_TO_2, FROM_2_TO_3, FROM_3_TO_4]
            .into_iter()
            .skip(usize::try_from(found).unwrap_or(usize::MAX))
        {
            database.change_tables(step).map_err(refused)?;
        }
        database
            .connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .and_then(|()| database.connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES))
            .and_then(|()| database.connection.pragma_update(None, "journal_size_limit", LOG_BYTES))
            .and_then(|()| database.connection.execute(PRUNE_JOURNAL, [JOURNAL_LINES]))
            .map_err(refused)?;
        let contents = database.read(path)?;
        Ok((database, contents))
    }

    /// Goes from one version of the tables to the next, wholly or not at all.
    fn change_tables(&mut self, step: &str) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        transaction.execute_batch(step)?;
        if version == 0 {
            let id = Uuid::new_v4().to_string();
            transaction.execute("INSERT INTO installation (id) VALUES (?1)", [id])?;
        }
        transaction.pragma_update(None, "user_version", version + 1)?;
        transaction.commit()
    }

    fn read(&self, path: &Path) -> Result<Contents, OpenError> {
        let refused = |source| OpenError::Database { path: path.to_owned(), source };
        let installation: String = self
            .connection
            .query_row("SELECT id FROM installation", [], |row| row.get(0))
            .map_err(refused)?;
        let installation = serde_json::from_value::<Uuid>(installation.into())
            .map_err(|source| record(path, "installation id", source))?;

        let mut entries = Vec::new();
        let mut pool = Pool::default();
        let mut nodes = self
            .connection
            .prepare("SELECT node.name, entry, ms FROM node LEFT JOIN last_seen USING (name)")
            .map_err(refused)?;
        let mut rows = nodes.query([]).map_err(refused)?;
        while let Some(row) = rows.next().map_err(refused)? {
            let name: String = row.get(0).map_err(refused)?;
            let text: String = row.get(1).map_err(refused)?;
            let mut entry: Entry = decode(path, &format!("node {name}"), &text)?;
            let last_seen: Option<i64> = row.get(2).map_err(refused)?;
            if let Some(Ok(last_seen)) = last_seen.map(Timestamp::from_millisecond) {
                entry.last_seen = entry.last_seen.max(last_seen);
            }
            pool.share(&mut entry);
            entries.push(entry);
        }

        let mut targets = Vec::new();
        let mut states =
            self.connection.prepare("SELECT name, state, will FROM target").map_err(refused)?;
        let mut rows = states.query([]).map_err(refused)?;
        while let Some(row) = rows.next().map_err(refused)? {
            let name: String = row.get(0).map_err(refused)?;
            let text: String = row.get(1).map_err(refused)?;
            let state: TargetState = decode(path, &format!("state of target {name}"), &text)?;
            let text: Option<String> = row.get(2).map_err(refused)?;
            let will = text.map(|text| decode(path, &format!("wish for target {name}"), &text));
            targets.push((name, state, will.transpose()?.unwrap_or_default()));
        }

        let mut departures = Vec::new();
        let mut departed =
            self.connection.prepare("SELECT node_id, departure FROM departure").map_err(refused)?;
        let mut rows = departed.query([]).map_err(refused)?;
        while let Some(row) = rows.next().map_err(refused)? {
            let id: String = row.get(0).map_err(refused)?;
            let text: String = row.get(1).map_err(refused)?;
            departures.push(decode(path, &format!("departure of node {id}"), &text)?);
        }

        let mut classes = Vec::new();
        let mut stored = self
            .connection
            .prepare("SELECT id, class FROM node_class ORDER BY position")
            .map_err(refused)?;
        let mut rows = stored.query([]).map_err(refused)?;
        while let Some(row) = rows.next().map_err(refused)? {
            let id: String = row.get(0).map_err(refused)?;
            let text: String = row.get(1).map_err(refused)?;
            classes.push(decode(path, &format!("node class {id}"), &text)?);
        }
        Ok(Contents { installation, entries, departures, targets, classes })
    }

    /// The newest lines of the journal, the newest last.
    pub(super) fn history(&self, of: &HistoryOf) -> Result<Vec<JournalLine>, CommitError> {
        let refused = |source| CommitError::Database { source };
        let mut newest = self
            .connection
            .prepare_cached(
                "SELECT id, target, event FROM journal WHERE ?1 IS NULL OR target = ?1
                 ORDER BY id DESC LIMIT ?2",
            )
            .map_err(refused)?;
        let mut rows = newest.query(params![of.target, of.limit]).map_err(refused)?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next().map_err(refused)? {
            let text: String = row.get(2).map_err(refused)?;
            lines.push(JournalLine {
                id: row.get(0).map_err(refused)?,
                target: row.get(1).map_err(refused)?,
                event: serde_json::from_str(&text)
                    .map_err(|source| CommitError::Encode { source })?,
            });
        }
        lines.reverse();
        Ok(lines)
    }

    fn is_in_place(&self) -> bool {
        let opened = self.lock.metadata().map(|file| (file.dev(), file.ino()));
        let there = fs::metadata(&self.path).map(|file| (file.dev(), file.ino()));
        matches!((opened, there), (Ok(opened), Ok(there)) if opened == there)
    }

    /// Writes all or nothing; returns when it is on disk.
    pub(super) fn commit<'a>(
        &mut self,
        writes: impl Iterator<Item = &'a Write>,
    ) -> Result<(), CommitError> {
        let refused = |source| CommitError::Database { source };
        // What is written into a file that is gone is lost with the process.
        if !self.is_in_place() {
            return Err(CommitError::Replaced { path: self.path.clone() });
        }
        let transaction = self.connection.transaction().map_err(refused)?;
        for write in writes {
            apply(&transaction, write)?;
        }
        transaction.commit().map_err(refused)
    }
}

fn apply(connection: &Connection, write: &Write) -> Result<(), CommitError> {
    let encode = |source| CommitError::Encode { source };
    match write {
        Write::Node { entry, report, departure } => {
            if let Some(departure) = departure {
                depart(connection, departure)?;
            }
            let (name, last_seen) = (entry.name.as_str(), entry.last_seen.as_millisecond());
            let text = serde_json::to_string(entry).map_err(encode)?;
            run(connection, "DELETE FROM departure WHERE node_id = ?1", [entry.node_id.as_str()])?;
            run(
                connection,
                "INSERT INTO node (name, entry) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET entry = excluded.entry",
                params![name, text],
            )?;
            if let Some(report) = report {
                run(
                    connection,
                    "INSERT INTO report (name, report) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET report = excluded.report",
                    params![name, report],
                )?;
            }
            run(
                connection,
                "INSERT INTO last_seen (name, ms) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET ms = excluded.ms WHERE ms <> excluded.ms",
                params![name, last_seen],
            )?;
        }
        Write::Seen(seen) => {
            for (name, at) in seen {
                run(
                    connection,
                    "UPDATE last_seen SET ms = ?2 WHERE name = ?1 AND ms <> ?2",
                    params![name.as_str(), at.as_millisecond()],
                )?;
            }
        }
        Write::Forget(name, departure) => {
            for statement in [
                "DELETE FROM node WHERE name = ?1",
                "DELETE FROM report WHERE name = ?1",
                "DELETE FROM last_seen WHERE name = ?1",
            ] {
                run(connection, statement, [name.as_str()])?;
            }
            depart(connection, departure)?;
        }
        Write::Departed(departures) => {
            for departure in departures {
                depart(connection, departure)?;
            }
        }
        Write::Target { name, state, event } => {
            let state = serde_json::to_string(state).map_err(encode)?;
            run(
                connection,
                "INSERT INTO target (name, state) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                params![name, state],
            )?;
            append(connection, name, event)?;
        }
        Write::Will { name, state, will, event, before: _ } => {
            let state = serde_json::to_string(state).map_err(encode)?;
            let will = serde_json::to_string(will).map_err(encode)?;
            run(
                connection,
                "INSERT INTO target (name, state, will) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET will = excluded.will",
                params![name, state, will],
            )?;
            append(connection, name, event)?;
        }
        Write::Class { class, .. } => {
            let text = serde_json::to_string(class).map_err(encode)?;
            run(
                connection,
                "INSERT INTO node_class (id, class) VALUES (?1, ?2)",
                params![class.id.to_string(), text],
            )?;
        }
        Write::Event { name, event } => append(connection, name, event)?,
    }
    Ok(())
}

/// Carries out a statement, which is kept for the next time.
fn run(connection: &Connection, sql: &str, values: impl Params) -> Result<(), CommitError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(values))
        .map(drop)
        .map_err(|source| CommitError::Database { source })
}

/// Remembers that a node has left.
fn depart(connection: &Connection, departure: &Departure) -> Result<(), CommitError> {
    let text = serde_json::to_string(departure).map_err(|source| CommitError::Encode { source })?;
    run(
        connection,
        "INSERT INTO departure (node_id, departure) VALUES (?1, ?2)
         ON CONFLICT (node_id) DO NOTHING",
        params![departure.node_id.as_str(), text],
    )
}

/// Appends to the journal.
fn append(connection: &Connection, target: &str, event: &Event) -> Result<(), CommitError> {
    let event = serde_json::to_string(event).map_err(|source| CommitError::Encode { source })?;
    let statement = "INSERT INTO journal (target, event) VALUES (?1, ?2)";
    run(connection, statement, params![target, event])
}

/// Makes the database's file if need be, for this user alone, and locks it: by whatever name another
/// aggregator comes to it, it is the same file. flock(2) is apart from the locks that SQLite takes.
fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    // SQLite gives its own files beside the database the database's mode.
    file.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
    Ok(file)
}

fn decode<T: DeserializeOwned>(path: &Path, what: &str, text: &str) -> Result<T, OpenError> {
    serde_json::from_str(text).map_err(|source| record(path, what, source))
}

fn record(path: &Path, what: &str, source: serde_json::Error) -> OpenError {
    OpenError::Record { path: path.to_owned(), what: what.to_owned(), source }
}
