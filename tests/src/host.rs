//! Machines with a real systemd, journal and dpkg for tests: the bed that `tests/host/bed.sh` sets up.
//! They are administered as people do it, with systemctl, journalctl and apt-get.
//!
//! What is not as a test needs it panics with a message that says so: a test that cannot be set up
//! has failed. Whether a test can run at all is asked beforehand, with [`Bed::find`].
#![expect(clippy::panic, reason = "a harness fails the test that uses it")]

pub mod authority;
pub mod site;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{output, wait_until};

/// How long a machine may take for what ought to be soon, while it is busy.
pub const SOON: Duration = Duration::from_secs(30);

/// The agent's unit.
pub const AGENT: &str = "rollcall-agent";

/// The aggregator's unit.
pub const AGGREGATOR: &str = "rollcall-aggregator";

/// The script of the bed.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/host/bed.sh");

/// A bed that is up, and the packages for its machines.
#[derive(Debug)]
pub struct Bed {
    folder: PathBuf,
    /// The second number of its addresses.
    number: u8,
    packages: PathBuf,
}

/// Packages of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// As they are built from this tree.
    Current,
    /// As if they were from an older one.
    Previous,
}

/// A machine of the bed: `head`, `node` or `spare`.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    bed: &'a Bed,
    name: &'static str,
}

impl Bed {
    /// The bed that the environment names: `ROLLCALL_HOST_BED`, the folder of a bed that is up, and
    /// `ROLLCALL_PACKAGES`, a folder with `current` and `previous`.
    ///
    /// # Errors
    ///
    /// Why there is none, for who asks why a test is not run.
    ///
    /// # Panics
    ///
    /// When what the environment names is not there: then somebody wanted the tests to run.
    pub fn find() -> Result<Self, String> {
        let Some(folder) = std::env::var_os("ROLLCALL_HOST_BED").map(PathBuf::from) else {
            return Err("there is no bed: `make test-host` sets one up".to_owned());
        };
        let path = folder.join("settings");
        let settings = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("ROLLCALL_HOST_BED names no bed, {} cannot be read: {error}", path.display())
        });
        let number = settings.lines().find_map(|line| line.strip_prefix("number="));
        let number = number.and_then(|number| number.parse().ok());
        let number = number.unwrap_or_else(|| panic!("{} tells no number", path.display()));
        let packages = std::env::var_os("ROLLCALL_PACKAGES").map(PathBuf::from);
        let packages = packages.unwrap_or_else(|| panic!("ROLLCALL_PACKAGES names no packages"));
        Ok(Self { folder, number, packages })
    }

    /// A machine, whether it runs or not.
    pub fn machine(&self, name: &'static str) -> Machine<'_> {
        Machine { bed: self, name }
    }

    /// This machine's address as the bed's machines reach it: stand-ins listen there.
    pub fn world(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, 254)
    }

    /// The packages of these programs, in this version.
    ///
    /// # Panics
    ///
    /// When one is not there, or not alone.
    pub fn packages(&self, version: Version, programs: &[&str]) -> Vec<PathBuf> {
        let folder = self.packages.join(match version {
            Version::Current => "current",
            Version::Previous => "previous",
        });
        let listed = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{} cannot be listed: {error}", folder.display()));
        let files: Vec<_> = listed.flatten().map(|entry| entry.path()).collect();
        let package_of = |program: &&str| {
            let prefix = format!("{program}_");
            let is_it = |path: &&PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&prefix) && name.ends_with(".deb")
            };
            let found: Vec<_> = files.iter().filter(is_it).collect();
            match found.as_slice() {
                [one] => (*one).clone(),
                found => panic!("{program} has no package of its own in {files:?}: {found:?}"),
            }
        };
        programs.iter().map(package_of).collect()
    }

    fn try_script(&self, command: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut script = Command::new("bash");
        script.arg(SCRIPT).arg(command).arg(&self.folder).args(arguments);
        output(script, input)
    }
}

impl<'a> Machine<'a> {
    /// Its name.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Its bed.
    pub const fn bed(self) -> &'a Bed {
        self.bed
    }

    /// Its address, as all know it.
    ///
    /// # Panics
    ///
    /// When the machine does not know itself.
    pub fn address(self) -> Ipv4Addr {
        let hosts = self.run(&["getent", "ahostsv4", self.name]);
        let address = hosts.split_whitespace().next().and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("{} has no address: {hosts}", self.name))
    }

    fn act(self, command: &str, more: &[&str]) {
        let arguments = [&[self.name], more].concat();
        self.bed
            .try_script(command, &arguments, "")
            .unwrap_or_else(|said| panic!("bed.sh {command} {}: {said}", arguments.join(" ")));
    }

    /// Starts it and waits until it is up; with a clean disk where it has none.
    ///
    /// # Panics
    ///
    /// When that fails, as all that follow.
    pub fn boot(self) {
        self.act("boot", &[]);
    }

    /// Shuts it down in order.
    ///
    /// # Panics
    ///
    /// As [`Self::boot`].
    pub fn halt(self) {
        self.act("halt", &[]);
    }

    /// Takes it away, its disk too.
    ///
    /// # Panics
    ///
    /// As [`Self::boot`].
    pub fn remove(self) {
        self.act("remove", &[]);
    }

    /// Takes its network away: the link goes down.
    ///
    /// # Panics
    ///
    /// As [`Self::boot`].
    pub fn cut(self) {
        self.act("cut", &[]);
    }

    /// Takes its network away: nothing comes through, and nothing says so.
    ///
    /// # Panics
    ///
    /// As [`Self::boot`].
    pub fn cut_silently(self) {
        self.act("cut", &["silently"]);
    }

    /// Gives it its network back.
    ///
    /// # Panics
    ///
    /// As [`Self::boot`].
    pub fn mend(self) {
        self.act("mend", &[]);
    }

    /// Runs a command in it, as root, and returns what it printed.
    ///
    /// # Errors
    ///
    /// How it ended, and what it said.
    pub fn try_run(self, command: &[&str]) -> Result<String, String> {
        self.try_run_with(command, "")
    }

    fn try_run_with(self, command: &[&str], input: &str) -> Result<String, String> {
        let run = self.bed.try_script("run", &[&[self.name], command].concat(), input);
        run.map_err(|said| format!("{}: {}: {said}", self.name, command.join(" ")))
    }

    /// As [`Self::try_run`].
    ///
    /// # Panics
    ///
    /// When the command fails.
    pub fn run(self, command: &[&str]) -> String {
        self.try_run(command).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Runs a line of shell, of which everything has to succeed, and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn shell(self, script: &str) -> String {
        self.run(&["bash", "-euo", "pipefail", "-c", script])
    }

    /// The command's stdout and stderr, however it ends.
    pub fn said(self, command: &str) -> String {
        let printed = self.try_run(&["bash", "-c", &format!("({command}) 2>&1; true")]);
        printed.unwrap_or_else(|problem| problem)
    }

    /// Its disk, as this machine sees it while the other runs. Its /run and /tmp are not on it.
    pub fn disk(self) -> PathBuf {
        self.bed.folder.join("machines").join(self.name).join("root")
    }

    /// A file of its disk.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn read(self, path: &str) -> String {
        self.run(&["cat", path])
    }

    /// Writes a file as a whole: `owner` is `user:group`, `mode` as chmod takes it.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(self, path: &str, owner: &str, mode: &str, text: &str) {
        let script = "mkdir -p \"$(dirname \"$1\")\"; umask 077; cat >\"$1.new\"; chown \"$2\" \"$1.new\"; chmod \"$3\" \"$1.new\"; mv \"$1.new\" \"$1\"";
        let command = ["bash", "-euc", script, "write", path, owner, mode];
        self.try_run_with(&command, text).unwrap_or_else(|problem| panic!("{problem}"));
    }

    /// Copies a file of this machine to a folder of its disk, for all to read and run.
    ///
    /// # Panics
    ///
    /// When it cannot be copied.
    pub fn copy(self, file: &Path, folder: &str) -> String {
        self.run(&["mkdir", "-p", folder]);
        let name = file.file_name().unwrap_or_default();
        let to = self.disk().join(folder.trim_start_matches('/')).join(name);
        fs::copy(file, &to)
            .unwrap_or_else(|error| panic!("{} cannot be written: {error}", to.display()));
        let path = format!("{folder}/{}", name.to_string_lossy());
        self.run(&["chmod", "0755", &path]);
        path
    }

    /// Installs packages as an administrator does, with nobody there to answer a question, and
    /// returns what was said.
    ///
    /// # Errors
    ///
    /// What apt said.
    pub fn try_install(
        self,
        version: Version,
        programs: &[&str],
        options: &[&str],
    ) -> Result<String, String> {
        let packages = self.bed.packages(version, programs);
        let copied: Vec<_> = packages.iter().map(|file| self.copy(file, "/root")).collect();
        let copied: Vec<_> = copied.iter().map(String::as_str).collect();
        let command = ["apt-get", "install", "--yes"];
        let installed = self.try_run(&[&command, options, copied.as_slice()].concat());
        self.run(&[&["rm"], copied.as_slice()].concat());
        installed
    }

    /// As [`Self::try_install`], in the current version and with no options.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn install(self, programs: &[&str]) -> String {
        self.try_install(Version::Current, programs, &[])
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// A property of a unit: `ActiveState`, `StatusText`.
    ///
    /// # Panics
    ///
    /// When systemd does not tell.
    pub fn property(self, unit: &str, name: &str) -> String {
        let printed = self.run(&["systemctl", "show", "--value", "--property", name, unit]);
        printed.trim_end().to_owned()
    }

    /// Waits until a unit's property is as wanted, and returns it.
    ///
    /// # Panics
    ///
    /// When it is not in time; with the unit's last lines.
    pub fn wait_for_property(
        self,
        unit: &str,
        name: &str,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let what = format!("{name} of {unit} on {}", self.name);
        wait_until(&what, deadline, || match self.property(unit, name) {
            value if wanted(&value) => Ok(value),
            value => Err(format!("{value:?}; its last lines:\n{}", self.tail(unit))),
        })
    }

    /// Waits until a unit runs, and returns its process.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub fn wait_until_active(self, unit: &str) -> String {
        self.wait_for_property(unit, "ActiveState", SOON, |state| state == "active");
        self.property(unit, "MainPID")
    }

    /// The last lines of a unit, for messages.
    pub fn tail(self, unit: &str) -> String {
        self.said(&format!("journalctl --no-pager --lines 25 --unit {unit}"))
    }

    /// A place in the journal: all that is there now is before it.
    ///
    /// # Panics
    ///
    /// When the journal has none.
    pub fn now(self) -> Place {
        self.run(&["journalctl", "--sync"]);
        let said = self.run(&["journalctl", "--lines", "1", "--show-cursor"]);
        let cursor = said.lines().find_map(|line| line.strip_prefix("-- cursor: "));
        Place(cursor.unwrap_or_else(|| panic!("no cursor in {said}")).to_owned())
    }

    /// What was written to the journal since a place, as far as it matches: `NODE_ID=node`.
    ///
    /// # Panics
    ///
    /// When the journal is not to be read.
    pub fn journal(self, since: &Place, matching: &[&str]) -> Vec<Entry> {
        self.run(&["journalctl", "--sync"]);
        let after = format!("--after-cursor={}", since.0);
        // With a match and a cursor, journalctl passes over the first entry that matches (252).
        let printed = self.run(&["journalctl", "--quiet", "--output", "json", "--all", &after]);
        let entry = |line: &str| {
            let parsed = serde_json::from_str(line);
            Entry(parsed.unwrap_or_else(|error| panic!("no JSON ({error}): {line}")))
        };
        let matches = |entry: &Entry| {
            let mut matching = matching.iter().filter_map(|field| field.split_once('='));
            matching.all(|(name, value)| entry.field(name) == value)
        };
        printed.lines().map(entry).filter(matches).collect()
    }

    /// What a unit's own processes have said since a place.
    ///
    /// # Panics
    ///
    /// When the journal is not to be read.
    pub fn told(self, unit: &str, since: &Place) -> Vec<Entry> {
        self.journal(since, &[&format!("_SYSTEMD_UNIT={unit}.service")])
    }

    /// What its administrator reads of a unit, from its own processes and from systemd, since a place.
    ///
    /// # Panics
    ///
    /// When the journal is not to be read.
    pub fn story(self, unit: &str, since: &Place) -> Vec<Entry> {
        let service = format!("{unit}.service");
        let mut entries = self.journal(since, &[]);
        entries.retain(|entry| {
            ["_SYSTEMD_UNIT", "UNIT"].iter().any(|name| entry.field(name) == service)
        });
        entries
    }

    /// Waits until a unit says something with these words, since a place.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub fn wait_for_message(
        self,
        unit: &str,
        since: &Place,
        words: &str,
        deadline: Duration,
    ) -> Entry {
        let what = format!("{unit} on {} to say {words:?}", self.name);
        wait_until(&what, deadline, || {
            let told = self.told(unit, since);
            let found = told.iter().find(|entry| entry.message().contains(words));
            found.cloned().ok_or_else(|| messages(&told))
        })
    }

    /// How much memory a unit's main process has, in bytes.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn resident(self, unit: &str) -> u64 {
        let pid = self.property(unit, "MainPID");
        let status = self.read(&format!("/proc/{pid}/status"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        1024 * kib.unwrap_or_else(|| panic!("no VmRSS of {unit}: {status}"))
    }
}

/// A place in a machine's journal.
#[derive(Debug, Clone)]
pub struct Place(String);

/// An entry of the journal.
#[derive(Debug, Clone)]
pub struct Entry(Value);

impl Entry {
    /// A field; empty where it has none.
    pub fn field(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// What it says.
    pub fn message(&self) -> &str {
        self.field("MESSAGE")
    }
}

/// What entries say, a line each.
pub fn messages(entries: &[Entry]) -> String {
    entries.iter().flat_map(|entry| [entry.message(), "\n"]).collect()
}
