//! AMD's GPUs, as their kernel driver tells of them in sysfs.
//!
//! One PCI function is one GPU. A GPU that is partitioned (`current_compute_partition`) has further
//! DRM devices on the platform bus, which are no PCI functions, and its `mem_info_vram_total` stays
//! that of the whole: `drivers/gpu/drm/amd/amdxcp/amdgpu_xcp_drv.c`.

use rollcall_report::{AmdGpu, Reading, clean_text};

use crate::finding::{Finding, Rule, Verdict};
use crate::host::{HostRoot, ReadError};
use crate::probe::pci::{self, Function};
use crate::probe::{known_text, parse_decimal};

/// The rules for AMD's GPUs.
pub(super) const RULES: [Rule; 7] =
    [GPU, SHARES_MEMORY, MEMORY_UNREADABLE, INTEGRATED, PERHAPS_INTEGRATED, DISPLAY, NOT_AMDGPU];

const GPU: Rule = Rule::new("amd-gpu", "a GPU of AMD's, with the memory that its driver tells");
const SHARES_MEMORY: Rule =
    Rule::new("amd-shared-memory", "its memory is the machine's, and counts as that");
const MEMORY_UNREADABLE: Rule =
    Rule::new("amd-memory-unreadable", "a GPU of AMD's whose memory cannot be read");
const INTEGRATED: Rule =
    Rule::new("amd-integrated", "part of a processor, with a part of the machine's memory");
const PERHAPS_INTEGRATED: Rule = Rule::new(
    "amd-perhaps-integrated",
    "this kernel does not tell a card from a part of the processor, so it is named and not counted",
);
const DISPLAY: Rule = Rule::new(
    "amd-display",
    "a VGA adapter that amdgpu does not drive, such as a server's console",
);
const NOT_AMDGPU: Rule = Rule::new(
    "amd-not-driven",
    "a GPU of AMD's that its driver amdgpu does not drive, so that its memory is not known",
);

/// The driver that tells of a GPU.
const DRIVER: &str = "amdgpu";

/// Bytes, for the whole GPU. Source: `drivers/gpu/drm/amd/amdgpu/amdgpu_vram_mgr.c`.
const VRAM: &str = "mem_info_vram_total";

/// The kernel from which on every card has `board_info` and no integrated GPU has.
/// Source: `amdgpu_board_attrs_is_visible` in `drivers/gpu/drm/amd/amdgpu/amdgpu_device.c`.
const BOARD_INFO_SINCE: (u32, u32) = (6, 8);

/// The one GPU of class 0x1200 that shares the machine's memory.
const MI300A: u32 = 0x74a0;

/// Names for what has no `product_name`, by device and, where it matters, revision; all of them are
/// cards. Source: data/amdgpu.ids of libdrm.
const CARDS: [(u32, Option<u32>, &str); 22] = [
    (0x66a1, Some(0x06), "AMD Radeon Pro VII"),
    (0x66a1, None, "AMD Instinct MI60 / MI50"),
    (0x6860, None, "AMD Radeon Instinct MI25"),
    (0x738c, None, "AMD Instinct MI100"),
    (0x73a1, None, "AMD Radeon Pro V620"),
    (0x7408, None, "AMD Instinct MI250X"),
    (0x740c, None, "AMD Instinct MI250X / MI250"),
    (0x740f, None, "AMD Instinct MI210"),
    (0x7460, None, "AMD Radeon Pro V710"),
    (MI300A, None, "AMD Instinct MI300A"),
    (0x74a1, None, "AMD Instinct MI300X"),
    (0x74a2, None, "AMD Instinct MI308X"),
    (0x74a5, None, "AMD Instinct MI325X"),
    (0x74a8, None, "AMD Instinct MI308X HF"),
    (0x74a9, None, "AMD Instinct MI300X HF"),
    (0x74b5, None, "AMD Instinct MI300X VF"),
    (0x74b6, None, "AMD Instinct MI308X"),
    (0x74bd, None, "AMD Instinct MI300X HF"),
    (0x75a0, None, "AMD Instinct MI350X"),
    (0x75a3, None, "AMD Instinct MI355X"),
    (0x75b0, None, "AMD Instinct MI350X VF"),
    (0x75b3, None, "AMD Instinct MI355X VF"),
];

/// What sysfs says of one of AMD's displays and accelerators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) revision: Option<u32>,
    /// From an EEPROM that only server cards have.
    pub(super) product_name: Option<String>,
    /// Whether there is a `board_info`.
    pub(super) has_board_info: bool,
    /// The maker of the memory chips, which an integrated GPU does not have.
    pub(super) vram_vendor: Option<String>,
    /// Absent where the driver tells none.
    pub(super) vram_bytes: Reading<u64>,
}

/// Reads what there is. What only helps to name a GPU and cannot be read is as good as missing.
pub(super) fn look(root: &HostRoot, function: &Function) -> Facts {
    let attributes = root.attributes(format!("{}/{}", pci::DEVICES, function.address));
    let text = |name: &str| attributes.read(name).ok().flatten();
    Facts {
        revision: attributes.parse("revision", pci::parse_id).ok(),
        product_name: text("product_name").as_deref().and_then(known_text),
        has_board_info: attributes.has("board_info").unwrap_or(false),
        vram_vendor: text("mem_info_vram_vendor").as_deref().and_then(known_text),
        vram_bytes: match attributes.parse(VRAM, parse_decimal) {
            Ok(bytes) => Reading::Known(bytes),
            Err(ReadError::Missing { .. }) => Reading::Absent,
            Err(error) => Reading::from(Err(error)),
        },
    }
}

/// What one of AMD's displays and accelerators is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Gpu(AmdGpu),
    /// It is there and not measured.
    Unmeasured,
    PassedOver,
}

/// Judges one that is neither virtual nor passed through.
pub(super) fn judge(
    function: &Function,
    facts: &Facts,
    kernel: Option<(u32, u32)>,
) -> (Judged, Finding) {
    let finding = |verdict, rule, file: &str| {
        Finding::new(verdict, rule, &function.address).source(function.file(file))
    };
    let is_driven = function.driver.as_deref() == Some(DRIVER);
    if !is_card(function, facts) {
        if !is_driven && function.subclass() == pci::CLASS_VGA {
            return (Judged::PassedOver, finding(Verdict::PassedOver, DISPLAY, "driver"));
        }
        if is_driven && kernel >= Some(BOARD_INFO_SINCE) {
            return (Judged::PassedOver, finding(Verdict::PassedOver, INTEGRATED, "board_info"));
        }
        let advice = "a kernel from 6.8 on, with the driver amdgpu, tells which it is";
        let finding = finding(Verdict::Apart, PERHAPS_INTEGRATED, "board_info").advice(advice);
        return (Judged::Unmeasured, finding);
    }
    let model = model(function, facts);
    let (memory_bytes, finding) = match &facts.vram_bytes {
        _ if function.device == MI300A => {
            (Reading::Absent, finding(Verdict::Counted, SHARES_MEMORY, "device").value(&model))
        }
        Reading::Known(bytes) if *bytes > 0 => (
            Reading::Known(*bytes),
            finding(Verdict::Counted, GPU, VRAM)
                .value(format!("{model}, {}", crate::probe::mib(*bytes))),
        ),
        _ if !is_driven => {
            let driver = function.driver.as_deref().unwrap_or("no driver");
            let reason = format!(
                "{} is bound to {driver} and not to amdgpu, which tells its memory: load amdgpu",
                function.address
            );
            let finding = finding(Verdict::Failed, NOT_AMDGPU, "driver").value(&reason);
            (Reading::failed(&reason), finding.advice("load the driver: modprobe amdgpu"))
        }
        told => {
            let reason = told.failure().map_or_else(
                || format!("{} tells no memory in {VRAM}", function.address),
                str::to_owned,
            );
            let finding = finding(Verdict::Failed, MEMORY_UNREADABLE, VRAM).value(&reason);
            let advice =
                "look for amdgpu in the kernel's log: a GPU that did not start has no memory";
            (Reading::failed(&reason), finding.advice(advice))
        }
    };
    let gpu = AmdGpu {
        pci_address: clean_text(&function.address).into(),
        device_id: format!("{:#06x}", function.device).into(),
        model: model.into(),
        memory_bytes,
    };
    (Judged::Gpu(gpu), finding)
}

/// Whether it is surely no part of a processor. There is no mark of integrated GPUs, so this takes
/// what only cards have.
fn is_card(function: &Function, facts: &Facts) -> bool {
    let vendor = facts.vram_vendor.as_deref();
    function.subclass() == pci::CLASS_PROCESSING_ACCELERATOR
        || facts.has_board_info
        || facts.product_name.is_some()
        || vendor.is_some_and(|vendor| !vendor.eq_ignore_ascii_case("unknown"))
        || CARDS.iter().any(|(device, ..)| *device == function.device)
}

fn model(function: &Function, facts: &Facts) -> String {
    if let Some(name) = &facts.product_name {
        // The form of the board is no part of the model: libdrm's table does not have it either.
        return name.strip_suffix(" OAM").unwrap_or(name).to_owned();
    }
    let known = CARDS.iter().find(|(device, revision, _)| {
        *device == function.device && (revision.is_none() || *revision == facts.revision)
    });
    known.map_or_else(|| format!("AMD GPU {:#06x}", function.device), |card| card.2.to_owned())
}

/// The first two numbers of a kernel's release: 6 and 12 of `6.12.43+deb13-amd64`.
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor.get(..digits)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::path::PathBuf;

    use super::*;

    const NEW: Option<(u32, u32)> = Some((6, 12));
    const OLD: Option<(u32, u32)> = Some((5, 14));
    /// What eight MI300X in a machine tell.
    const MI300X_BYTES: u64 = 206_141_652_992;

    fn function(device: u32, subclass: u32, driver: Option<&str>) -> Function {
        Function {
            path: PathBuf::new(),
            address: "0000:c1:00.0".into(),
            vendor: pci::AMD,
            device,
            subsystem: None,
            class: subclass << 8,
            is_virtual: false,
            driver: driver.map(str::to_owned),
        }
    }

    fn facts(vram_bytes: Reading<u64>) -> Facts {
        Facts {
            revision: None,
            product_name: None,
            has_board_info: false,
            vram_vendor: None,
            vram_bytes,
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn what_counts() {
        let known = || facts(Reading::Known(MI300X_BYTES));
        let small = || facts(Reading::Known(512 << 20));
        let amdgpu = Some("amdgpu");
        let with = |change: fn(&mut Facts)| {
            let mut facts = small();
            change(&mut facts);
            facts
        };
        let accelerator = pci::CLASS_PROCESSING_ACCELERATOR;
        let (vga, other) = (pci::CLASS_VGA, pci::CLASS_OTHER_DISPLAY);
        for (why, function, facts, kernel, rule, memory) in [
            ("MI300X", function(0x74a1, accelerator, amdgpu), known(), OLD, GPU, Some(true)),
            ("MI210", function(0x740f, other, amdgpu), known(), OLD, GPU, Some(true)),
            (
                "MI300A, whose memory is the machine's",
                function(MI300A, accelerator, amdgpu),
                facts(Reading::Absent),
                NEW,
                SHARES_MEMORY,
                Some(false),
            ),
            (
                "MI300X without its driver",
                function(0x74a1, accelerator, None),
                facts(Reading::Absent),
                NEW,
                NOT_AMDGPU,
                Some(false),
            ),
            (
                "MI300X that did not start",
                function(0x74a1, accelerator, amdgpu),
                facts(Reading::Absent),
                NEW,
                MEMORY_UNREADABLE,
                Some(false),
            ),
            (
                "a zero is not believed",
                function(0x74a1, accelerator, amdgpu),
                facts(Reading::Known(0)),
                NEW,
                MEMORY_UNREADABLE,
                Some(false),
            ),
            ("integrated", function(0x164e, vga, amdgpu), small(), NEW, INTEGRATED, None),
            (
                "integrated, headless",
                function(0x150e, other, amdgpu),
                with(|it| it.vram_vendor = Some("unknown".into())),
                NEW,
                INTEGRATED,
                None,
            ),
            (
                "an old kernel",
                function(0x164e, vga, amdgpu),
                small(),
                OLD,
                PERHAPS_INTEGRATED,
                None,
            ),
            (
                "an unknown kernel",
                function(0x164e, vga, amdgpu),
                small(),
                None,
                PERHAPS_INTEGRATED,
                None,
            ),
            (
                "a card by its board",
                function(0x744c, vga, amdgpu),
                with(|it| it.has_board_info = true),
                NEW,
                GPU,
                Some(true),
            ),
            (
                "a card by its chips",
                function(0x744c, vga, amdgpu),
                with(|it| it.vram_vendor = Some("samsung".into())),
                OLD,
                GPU,
                Some(true),
            ),
            (
                "a card by its name",
                function(0x7448, vga, amdgpu),
                with(|it| it.product_name = Some("AMD Radeon PRO W7900".into())),
                OLD,
                GPU,
                Some(true),
            ),
            (
                "a server's console",
                function(0x515e, vga, Some("radeon")),
                facts(Reading::Absent),
                NEW,
                DISPLAY,
                None,
            ),
            (
                "headless, without a driver",
                function(0x7480, other, None),
                facts(Reading::Absent),
                NEW,
                PERHAPS_INTEGRATED,
                None,
            ),
        ] {
            let (judged, finding) = judge(&function, &facts, kernel);
            assert_eq!(finding.rule, rule, "{why}");
            if rule == GPU {
                let mib = facts.vram_bytes.known().map(|bytes| bytes / (1 << 20)).expect(why);
                assert!(finding.value.ends_with(&format!(", {mib} MiB")), "{}", finding.value);
            }
            let known = match &judged {
                Judged::Gpu(gpu) => Some(gpu.memory_bytes.known().is_some()),
                Judged::Unmeasured | Judged::PassedOver => None,
            };
            assert_eq!(known, memory, "{why}");
            let is_failed = finding.verdict == Verdict::Failed;
            let failed =
                matches!(&judged, Judged::Gpu(gpu) if gpu.memory_bytes.failure().is_some());
            assert_eq!(is_failed, failed, "{why}");
            assert_eq!(finding.verdict == Verdict::Apart, judged == Judged::Unmeasured, "{why}");
        }
    }

    #[test]
    fn models() {
        let named =
            |name: &str| Facts { product_name: Some(name.into()), ..facts(Reading::Absent) };
        let revision = |revision| Facts { revision: Some(revision), ..facts(Reading::Absent) };
        for (device, facts, expected) in [
            (0x74a1, facts(Reading::Absent), "AMD Instinct MI300X"),
            (0x74a1, named("AMD Instinct MI300X OAM"), "AMD Instinct MI300X"),
            (0x7448, named("AMD Radeon PRO W7900"), "AMD Radeon PRO W7900"),
            (0x66a1, revision(0x06), "AMD Radeon Pro VII"),
            (0x66a1, revision(0x02), "AMD Instinct MI60 / MI50"),
            (0x7fff, facts(Reading::Absent), "AMD GPU 0x7fff"),
        ] {
            assert_eq!(model(&function(device, 0x1200, None), &facts), expected);
        }
    }

    #[test]
    fn kernels() {
        for (release, version) in [
            ("6.12.43+deb13-amd64", Some((6, 12))),
            ("5.14.0-503.el9.x86_64", Some((5, 14))),
            ("7.0-rc1", Some((7, 0))),
            ("6", None),
            ("six.eight", None),
            ("", None),
        ] {
            assert_eq!(kernel_version(release), version, "{release}");
        }
    }

    proptest! {
        #[test]
        fn any_release_is_read_or_refused(text in "\\PC{0,20}", major: u32, minor: u32) {
            let _any = kernel_version(&text);
            let release = format!("{major}.{minor}-rc1");
            prop_assert_eq!(kernel_version(&release), Some((major, minor)));
        }
    }
}
