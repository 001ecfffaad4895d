//! The SQLite database: one file on a local disk, write-ahead log, one writer.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde::de::DeserializeOwned;
use thiserror::Error;
use uuid::Uuid;

use super::{Contents, OpenError, Write};
use crate::onboarding::state::TargetState;
use crate::roll::Entry;

/// The version of the tables below, kept in the file as `user_version`.
const VERSION: u32 = 1;

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

/// The open database.
pub(super) struct Database {
    connection: Connection,
    /// Held as long as the database is open: a second aggregator on one store would register twice.
    _lock: File,
}

/// Why a commit failed; then nothing of it is stored.
#[derive(Debug, Error)]
pub(super) enum CommitError {
    #[error("SQLite refused the transaction")]
    Database { source: rusqlite::Error },
    #[error("a record could not be encoded")]
    Encode { source: serde_json::Error },
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
        let mut database = Self { connection, _lock: lock };
        if found == 0 {
            let others: u32 = database
                .connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
                .map_err(refused)?;
            if others > 0 {
                return Err(OpenError::NotOurs { path: path.to_owned() });
            }
            database.make_tables().map_err(refused)?;
        }
        database
            .connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .map_err(refused)?;
        let contents = database.read(path)?;
        Ok((database, contents))
    }

    fn make_tables(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction
            .execute("INSERT INTO installation (id) VALUES (?1)", [Uuid::new_v4().to_string()])?;
        transaction.pragma_update(None, "user_version", VERSION)?;
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
        let mut nodes = self
            .connection
            .prepare("SELECT name, entry, last_seen_ms FROM node")
            .map_err(refused)?;
        let mut rows = nodes.query([]).map_err(refused)?;
        while let Some(row) = rows.next().map_err(refused)? {
            let name: String = row.get(0).map_err(refused)?;
            let text: String = row.get(1).map_err(refused)?;
            let mut entry: Entry = decode(path, &format!("node {name}"), &text)?;
            let last_seen: i64 = row.get(2).map_err(refused)?;
            if let Ok(last_seen) = Timestamp::from_millisecond(last_seen) {
                entry.last_seen = entry.last_seen.max(last_seen);
            }
            entries.push(entry);
        }

        let mut targets = Vec::new();
        let mut states =
            self.connection.prepare("SELECT name, state FROM target").map_err(refused)?;
        let mut rows = states.query([]).map_err(refused)?;
        while let Some(row) = rows.next().map_err(refused)? {
            let name: String = row.get(0).map_err(refused)?;
            let text: String = row.get(1).map_err(refused)?;
            let state: TargetState = decode(path, &format!("state of target {name}"), &text)?;
            targets.push((name, state));
        }
        Ok(Contents { installation, entries, targets })
    }

    /// Writes all or nothing; returns when it is on disk.
    pub(super) fn commit<'a>(
        &mut self,
        writes: impl Iterator<Item = &'a Write>,
    ) -> Result<(), CommitError> {
        let refused = |source| CommitError::Database { source };
        let transaction = self.connection.transaction().map_err(refused)?;
        for write in writes {
            apply(&transaction, write)?;
        }
        transaction.commit().map_err(refused)
    }
}

fn apply(connection: &Connection, write: &Write) -> Result<(), CommitError> {
    let refused = |source| CommitError::Database { source };
    let encode = |source| CommitError::Encode { source };
    match write {
        Write::Node { entry, report } => {
            let text = serde_json::to_string(entry).map_err(encode)?;
            connection
                .prepare_cached(
                    "INSERT INTO node (name, entry, report, last_seen_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (name) DO UPDATE SET entry = excluded.entry,
                       report = coalesce(excluded.report, report),
                       last_seen_ms = excluded.last_seen_ms",
                )
                .and_then(|mut insert| {
                    let last_seen = entry.last_seen.as_millisecond();
                    insert.execute(params![entry.name.as_str(), text, report, last_seen])
                })
                .map_err(refused)?;
        }
        Write::Seen(seen) => {
            let mut update = connection
                .prepare_cached("UPDATE node SET last_seen_ms = ?2 WHERE name = ?1")
                .map_err(refused)?;
            for (name, at) in seen {
                update.execute(params![name.as_str(), at.as_millisecond()]).map_err(refused)?;
            }
        }
        Write::Forget(name) => {
            connection
                .execute("DELETE FROM node WHERE name = ?1", [name.as_str()])
                .map_err(refused)?;
        }
        Write::Target { name, state, event } => {
            let state = serde_json::to_string(state).map_err(encode)?;
            let event = serde_json::to_string(event).map_err(encode)?;
            connection
                .execute(
                    "INSERT INTO target (name, state) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                    params![name, state],
                )
                .map_err(refused)?;
            connection
                .execute(
                    "INSERT INTO journal (target, event) VALUES (?1, ?2)",
                    params![name, event],
                )
                .map_err(refused)?;
        }
    }
    Ok(())
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
