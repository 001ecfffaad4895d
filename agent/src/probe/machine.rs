//! The machine as such: architecture, operating system, kernel, boot time, maker.

use rollcall_report::{Machine, Reading};

use super::{KERNEL_RELEASE, known_text, parse_decimal};
use crate::finding::{Finding, Probed, Rule, Verdict};
use crate::host::{HostRoot, ParseError, ReadError};

/// The rules for the machine as such.
pub(super) const RULES: [Rule; 2] = [TOLD, UNREADABLE];

const TOLD: Rule = Rule::new("told-by-the-kernel", "what the machine says of itself; no capacity");
const UNREADABLE: Rule = Rule::new("unreadable", "a file that every Linux has cannot be read");

const ARCHITECTURE: &str = "/proc/sys/kernel/arch";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const STAT: &str = "/proc/stat";

/// Reads what the machine says of itself. What it does not say is `None`.
pub(super) fn probe(
    root: &HostRoot,
    kernel_release: Result<String, ReadError>,
) -> Probed<Reading<Machine>> {
    match read(root, kernel_release) {
        Ok(machine) => {
            let findings = findings(&machine);
            Probed { reading: Reading::Known(machine), findings }
        }
        Err(error) => Probed::failed("machine", UNREADABLE, &error),
    }
}

fn findings(machine: &Machine) -> Vec<Finding> {
    let boot_time = machine.boot_time_seconds.map(|seconds| seconds.to_string());
    [
        ("architecture", Some(machine.architecture.as_str()), ARCHITECTURE),
        ("operating system", machine.operating_system.as_deref(), "/etc/os-release"),
        ("kernel", machine.kernel_release.as_deref(), KERNEL_RELEASE),
        ("boot time", boot_time.as_deref(), STAT),
        ("boot", machine.boot_id.as_deref(), BOOT_ID),
        ("vendor", machine.vendor.as_deref(), "/sys/class/dmi/id/sys_vendor"),
        ("product", machine.product.as_deref(), "/sys/class/dmi/id/product_name"),
    ]
    .into_iter()
    .filter_map(|(name, value, source)| {
        Some(Finding::new(Verdict::Apart, TOLD, name).value(value?).source(source))
    })
    .collect()
}

fn read(root: &HostRoot, kernel_release: Result<String, ReadError>) -> Result<Machine, ReadError> {
    let text = |path: &str| -> Result<Option<String>, ReadError> {
        Ok(root.read_if_present(path)?.as_deref().and_then(known_text))
    };
    // os-release(5): the second is read where the first does not exist.
    let os_release = match root.read_if_present("/etc/os-release")? {
        Some(text) => Some(text),
        None => root.read_if_present("/usr/lib/os-release")?,
    };
    let boot_time_seconds = match root.parse(STAT, parse_boot_time) {
        Err(ReadError::Missing { .. }) => None,
        result => Some(result?),
    };
    Ok(Machine {
        // The file is there since Linux 6.1. Before, the agent's own architecture is the node's:
        // agents for 32 bits are not built.
        architecture: match text(ARCHITECTURE)? {
            Some(architecture) => architecture.into(),
            None => root
                .manifest()
                .and_then(|manifest| manifest.architecture.as_deref())
                .unwrap_or(std::env::consts::ARCH)
                .into(),
        },
        operating_system: os_release.as_deref().and_then(parse_pretty_name).map(Into::into),
        // Every Linux tells it: where it is missing, this is no host's root.
        kernel_release: known_text(&kernel_release?).map(Into::into),
        boot_time_seconds,
        boot_id: text(BOOT_ID)?.map(Into::into),
        vendor: text("/sys/class/dmi/id/sys_vendor")?.map(Into::into),
        product: text("/sys/class/dmi/id/product_name")?.map(Into::into),
    })
}

/// `PRETTY_NAME` of os-release(5): the last assignment holds, as in a shell.
fn parse_pretty_name(text: &str) -> Option<String> {
    let value = text.lines().rev().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    known_text(&unquoted(value))
}

/// Takes off the quoting that os-release(5) allows.
fn unquoted(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

/// `btime` of `/proc/stat`: seconds since the epoch.
/// Source: Documentation/filesystems/proc.rst, 1.7.
fn parse_boot_time(text: &str) -> Result<u64, ParseError> {
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))
        .ok_or_else(|| ParseError::new("a line \"btime SECONDS\"", text))
        .and_then(parse_decimal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pretty_names() {
        for (text, expected) in [
            (
                "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
                Some("Debian GNU/Linux 12 (bookworm)"),
            ),
            ("PRETTY_NAME='Arch Linux'", Some("Arch Linux")),
            ("PRETTY_NAME=Alpine", Some("Alpine")),
            (r#"PRETTY_NAME="a \"b\" \$c""#, Some(r#"a "b" $c"#)),
            ("PRETTY_NAME=old\nPRETTY_NAME=new", Some("new")),
            ("PRETTY_NAME=\"\"", None),
            ("PRETTY_NAME=\"", Some("\"")),
            ("# PRETTY_NAME=no", None),
            ("", None),
        ] {
            assert_eq!(parse_pretty_name(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn boot_times() {
        assert_eq!(parse_boot_time("cpu 1 2\nbtime 1795252813\nprocesses 5\n"), Ok(1_795_252_813));
        for bad in ["", "cpu 1\n", "btime -1\n", "btime 99999999999999999999\n", "btime \n"] {
            assert!(parse_boot_time(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn odd_names_are_cleaned_or_none(text in any::<String>(), rest in "[\"'\\\\a \\t]{0,6}") {
            for line in [text, format!("PRETTY_NAME={rest}")] {
                if let Some(name) = parse_pretty_name(&line) {
                    prop_assert!(!name.is_empty() && !name.contains(char::is_control), "{:?}", name);
                }
            }
        }

        #[test]
        fn boot_times_are_numbers_only(seconds in any::<u64>(), text in "\\PC{0,24}") {
            prop_assert_eq!(parse_boot_time(&format!("btime {seconds}")), Ok(seconds));
            let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let found = parse_boot_time(&format!("btime {text}"));
            prop_assert!(digits_only || found.is_err(), "{:?}", found);
        }
    }
}
