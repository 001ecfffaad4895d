//! The document against AIOS's own sample, and its totals against sums written another way.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rollcall_aggregator::cluster_file::{ClusterFile, Overrides};
use rollcall_aggregator::document::{ClusterDocument, Warning, amd_features, assemble, features};
use rollcall_aggregator::intake::parse::parse;
use rollcall_report::{
    Accelerator, AmdGpu, Attachment, ComputeCapability, Cpu, Disk, Gpu, GpuFailure, Gpus,
    Inventory, Link, Memory, Nic, NicKind, NodeId, NodeReport, NvidiaDriver, Reading, Shared,
    Subject, Swap,
};
use serde_json::Value;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample").join(name)
}

fn report(name: &str) -> NodeReport {
    let body = fs::read(sample(name)).expect(name);
    parse(&body).unwrap_or_else(|refusal| panic!("{name}: {}", refusal.message))
}

fn texts(names: &[Shared<str>]) -> Vec<&str> {
    names.iter().map(Shared::as_str).collect()
}

fn inventory() -> Inventory {
    report("node-1.json").inventory
}

fn assemble_one(inventory: &Inventory, overrides: &Overrides) -> (ClusterDocument, Vec<Warning>) {
    let file = ClusterFile::read(&sample("cluster.yaml")).expect("the cluster file");
    let id = "n1".parse::<NodeId>().expect("an id");
    let assembly = assemble(&file.cluster, overrides, [(&id, inventory)]);
    (assembly.document, assembly.warnings)
}

/// Where rollcall's document differs from the sample on purpose: (path, sample's, ours, why).
const EXCEPTIONS: [(&str, &str, &str, &str); 2] = [
    (
        "/nodes/nodeData/0/gpus/features",
        r#"["fp16","tensor_cores"]"#,
        r#"["fp16","tensor_cores","bf16"]"#,
        "an A100 (compute capability 8.0) has bfloat16 too",
    ),
    (
        "/nodes/nodeData/1/gpus/features",
        r#"["fp16"]"#,
        r#"["fp16","tensor_cores"]"#,
        "a V100 (compute capability 7.0) has tensor cores",
    ),
];

#[test]
fn aios_sample_is_rebuilt_from_two_reports() {
    let file = ClusterFile::read(&sample("cluster.yaml")).expect("the cluster file");
    let reports = [report("node-1.json"), report("node-2.json")];
    let nodes = reports.iter().map(|report| (&report.node.proposed_id, &report.inventory));
    let assembly = assemble(&file.cluster, &file.overrides, nodes);
    assert_eq!(assembly.incomplete, []);
    assert_eq!(assembly.warnings, []);

    let text = fs::read_to_string(sample("document.json")).expect("the sample");
    let mut expected: Value = serde_json::from_str(&text).expect("JSON");
    for (path, theirs, ours, why) in EXCEPTIONS {
        let place = expected.pointer_mut(path).expect(path);
        assert_eq!(place.to_string(), theirs, "an exception that is none any more: {why}");
        *place = serde_json::from_str(ours).expect("JSON");
    }
    // As text: the order of the fields is part of it.
    assert_eq!(
        serde_json::to_string_pretty(&assembly.document).expect("JSON"),
        serde_json::to_string_pretty(&expected).expect("JSON"),
    );
}

#[test]
fn what_is_not_known_keeps_the_node_out() {
    type Edit = fn(&mut Inventory);
    fn failed<T>() -> Reading<T> {
        Reading::failed("input/output error")
    }
    let cases: [(&str, Edit, Subject); 12] = [
        ("cpu", |i| i.cpu = failed().into(), Subject::Cpu),
        ("memory", |i| i.memory = failed(), Subject::Memory),
        ("swap", |i| i.swap = failed(), Subject::Swap),
        ("all disks", |i| i.disks = failed().into(), Subject::Disks),
        (
            "one disk's size",
            |i| {
                if let Reading::Known(disks) = &mut *i.disks {
                    disks[0].size_bytes = failed();
                }
            },
            Subject::Disks,
        ),
        ("nics", |i| i.nics = failed().into(), Subject::Nics),
        (
            "what an interface is",
            |i| {
                let nic = &mut known(&mut i.nics)[0];
                nic.kind = NicKind::Other;
                nic.speed_mbps = failed();
            },
            Subject::Nics,
        ),
        ("AMD's GPUs", |i| known(&mut i.gpus).amd = failed(), Subject::Gpus),
        (
            "an AMD GPU's memory",
            |i| known(&mut i.gpus).amd = Reading::Known(vec![amd("0x74a1", failed())]),
            Subject::Gpus,
        ),
        ("gpus", |i| i.gpus = failed(), Subject::Gpus),
        ("the driver", |i| known(&mut i.gpus).nvidia_driver = failed(), Subject::Gpus),
        (
            "the PCI bus",
            |i| {
                known(&mut i.gpus).nvidia_pci_devices = failed();
                known(&mut i.gpus).nvidia_driver = Reading::Absent;
            },
            Subject::Gpus,
        ),
    ];
    let file = ClusterFile::read(&sample("cluster.yaml")).expect("the cluster file");
    let id = "n1".parse::<NodeId>().expect("an id");
    for (what, edit, subject) in cases {
        let mut inventory = inventory();
        edit(&mut inventory);
        let assembly = assemble(&file.cluster, &file.overrides, [(&id, &inventory)]);
        assert_eq!(assembly.document.nodes.count, 0, "{what}");
        let [incomplete] = assembly.incomplete.as_slice() else { panic!("{what}") };
        assert_eq!(incomplete.subject, subject, "{what}");
        assert!(incomplete.to_string().contains("input/output error"), "{what}: {incomplete}");
    }
}

fn known<T>(reading: &mut Reading<T>) -> &mut T {
    match reading {
        Reading::Known(value) => value,
        Reading::Absent | Reading::Failed { .. } => panic!("the sample knows it"),
    }
}

fn amd(device_id: &str, memory_bytes: Reading<u64>) -> AmdGpu {
    AmdGpu {
        pci_address: "0000:c1:00.0".into(),
        device_id: device_id.into(),
        model: format!("AMD {device_id}").into(),
        memory_bytes,
    }
}

#[test]
fn amd_gpus_follow_nvidia_gpus() {
    let mut inventory = inventory();
    let gpus = known(&mut inventory.gpus);
    let more = [Reading::Known((192 << 30) + 1_048_575), Reading::Absent];
    gpus.amd = Reading::Known(more.map(|memory| amd("0x74a1", memory)).into());
    let (document, warnings) = assemble_one(&inventory, &Overrides::default());
    let node = &document.nodes.node_data[0].gpus;
    assert_eq!(texts(&node.model_names), ["NVIDIA A100", "AMD 0x74a1"]);
    let memory: Vec<u64> = node.gpus.iter().map(|gpu| gpu.memory).collect();
    assert_eq!(memory, [16_384, 16_384, 196_608, 0]);
    assert_eq!((document.gpus.count, document.gpus.memory), (4, 229_376));
    assert_eq!(node.features, ["fp16", "bf16"], "what an A100 and an MI300X both can");
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["node n1: AMD 0x74a1 has no memory of its own, it is counted as 0"]);

    known(&mut inventory.gpus).nvidia_driver = Reading::Absent;
    known(&mut inventory.gpus).nvidia_pci_devices = Reading::Known(0);
    let (document, _) = assemble_one(&inventory, &Overrides::default());
    let node = &document.nodes.node_data[0].gpus;
    assert_eq!(
        (node.count, node.features.as_slice()),
        (2, &["fp16", "bf16", "fp8"].map(String::from)[..])
    );
}

#[test]
fn features_of_amd_gpus_follow_from_the_device() {
    for (what, device_id, expected) in [
        ("MI100", "0x738c", &["fp16", "bf16"][..]),
        ("MI250X", "0x740c", &["fp16", "bf16"]),
        ("MI210", "0x740F", &["fp16", "bf16"]),
        ("MI300A", "0x74a0", &["fp16", "bf16", "fp8"]),
        ("MI300X", "0x74a1", &["fp16", "bf16", "fp8"]),
        ("MI325X", "0x74a5", &["fp16", "bf16", "fp8"]),
        ("MI325X in a virtual machine", "0x74b9", &["fp16", "bf16", "fp8"]),
        ("one that is not listed", "0x7448", &[]),
        ("no id", "", &[]),
    ] {
        assert_eq!(amd_features(device_id), expected, "{what}");
    }
}

#[test]
fn bandwidth() {
    let overrides = ClusterFile::parse(
        "cluster: {id: a, regionId: b}\noverrides:\n  unknownNicSpeeds: [{nic: eth1, speedMbps: 700}]\n",
    )
    .expect("valid")
    .overrides;
    let told = Reading::Known(25_000);
    for (what, nic, link, speed, expected, warned) in [
        ("a speed that is told", "eth0", Link::Up, told.clone(), 25_000, false),
        ("a link that is down", "eth0", Link::Down, Reading::Absent, 0, false),
        ("a speed told of a link that is down", "eth0", Link::Down, told.clone(), 0, false),
        ("a speed that is not told", "eth0", Link::Up, Reading::Absent, 0, true),
        ("a speed that cannot be read", "eth0", Link::Up, Reading::failed("EIO"), 0, true),
        ("a link of unknown state", "eth0", Link::Unknown, Reading::Absent, 0, true),
        ("a speed that is not told, and set", "eth1", Link::Up, Reading::Absent, 700, false),
        ("a speed that is told, and set", "eth1", Link::Up, told, 25_000, false),
    ] {
        let mut inventory = inventory();
        inventory.nics = Reading::Known(vec![Nic {
            name: nic.into(),
            kind: NicKind::Ethernet,
            link,
            speed_mbps: speed,
            driver: None,
        }])
        .into();
        let (document, warnings) = assemble_one(&inventory, &overrides);
        assert_eq!(document.network.interfaces, 1, "{what}");
        assert_eq!(document.network.tx_bandwidth, expected, "{what}");
        assert_eq!(document.network.rx_bandwidth, expected, "{what}");
        assert_eq!(!warnings.is_empty(), warned, "{what}: {warnings:?}");
    }
}

fn gpu(index: u32, memory_bytes: Reading<u64>) -> Gpu {
    Gpu {
        index,
        model: "NVIDIA H100 80GB HBM3".into(),
        memory_bytes,
        compute_capability: Some(ComputeCapability { major: 9, minor: 0 }),
        uuid: Some(format!("GPU-{index}").into()),
        pci_address: None,
        active_nvlinks: None,
        mig: None,
    }
}

/// So many MiB, and a little more.
fn mib(count: u64) -> Reading<u64> {
    Reading::Known(count * 1024 * 1024 + 1_048_575)
}

#[test]
fn gpus_that_are_not_there_lost_or_unmeasured() {
    let driver = |gpus, failures| {
        Reading::Known(NvidiaDriver { version: None, cuda_version: None, gpus, failures })
    };
    let failure = GpuFailure { index: 1, reason: "GPU is lost".into() };
    let amd = Accelerator {
        pci_address: "0000:81:00.0".into(),
        vendor_id: "0x1002".into(),
        device_id: "0x74a1".into(),
    };
    for (what, on_bus, nvidia_driver, unmeasured, count, memory, warning) in [
        ("none", Reading::Known(0), Reading::Absent, vec![], 0, 0, ""),
        ("no PCI bus", Reading::Absent, Reading::Absent, vec![], 0, 0, ""),
        (
            "two",
            Reading::Known(2),
            driver(vec![gpu(0, mib(81_559)), gpu(1, mib(81_251))], vec![]),
            vec![],
            2,
            162_810,
            "",
        ),
        (
            "a bus that cannot be read, and a driver that answers",
            Reading::failed("EIO"),
            driver(vec![gpu(0, mib(81_559))], vec![]),
            vec![],
            1,
            81_559,
            "",
        ),
        (
            "one that the driver lost",
            Reading::Known(2),
            driver(vec![gpu(0, mib(81_559))], vec![failure.clone()]),
            vec![],
            1,
            81_559,
            "1 of 2 NVIDIA GPUs do not answer",
        ),
        (
            "one that the driver does not even list",
            Reading::Known(2),
            driver(vec![gpu(0, mib(81_559))], vec![]),
            vec![],
            1,
            81_559,
            "1 of 2 NVIDIA GPUs do not answer",
        ),
        (
            "no PCI bus, and one lost",
            Reading::Absent,
            driver(vec![gpu(0, mib(81_559))], vec![failure]),
            vec![],
            1,
            81_559,
            "1 of 2 NVIDIA GPUs do not answer",
        ),
        (
            "memory that is the machine's",
            Reading::Known(1),
            driver(vec![gpu(0, Reading::Absent)], vec![]),
            vec![],
            1,
            0,
            "no memory of its own",
        ),
        (
            "another maker's",
            Reading::Known(0),
            Reading::Absent,
            vec![amd],
            0,
            0,
            "0000:81:00.0 (0x1002:0x74a1)",
        ),
    ] {
        let mut inventory = inventory();
        inventory.gpus = Reading::Known(Gpus {
            nvidia_pci_devices: on_bus,
            passed_through: 0,
            lost: Vec::new(),
            amd: Reading::Absent,
            nvidia_unasked: Vec::new(),
            nvidia_driver,
            unmeasured,
        });
        let (document, warnings) = assemble_one(&inventory, &Overrides::default());
        assert_eq!((document.gpus.count, document.gpus.memory), (count, memory), "{what}");
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(said.is_empty(), warning.is_empty(), "{what}: {said:?}");
        assert!(said.iter().all(|said| said.contains(warning)), "{what}: {said:?}");
    }
}

#[test]
fn gpus_on_the_bus_without_a_word_of_a_driver_are_no_zero() {
    let file = ClusterFile::read(&sample("cluster.yaml")).expect("the cluster file");
    let id = "n1".parse::<NodeId>().expect("an id");
    let mut inventory = inventory();
    known(&mut inventory.gpus).nvidia_driver = Reading::Absent;
    let assembly = assemble(&file.cluster, &file.overrides, [(&id, &inventory)]);
    assert_eq!(assembly.document.nodes.count, 0);
    assert_eq!(assembly.incomplete.len(), 1);
}

#[test]
fn gpus_that_nobody_asked() {
    let file = ClusterFile::read(&sample("cluster.yaml")).expect("the cluster file");
    let id = "n1".parse::<NodeId>().expect("an id");
    for (what, on_bus, told, counted) in [
        ("as many as on the bus", 2, 2, true),
        ("fewer than on the bus", 2, 1, false),
        ("more than on the bus", 1, 2, false),
        ("none", 1, 0, false),
    ] {
        let mut inventory = inventory();
        let gpus = known(&mut inventory.gpus);
        gpus.nvidia_pci_devices = Reading::Known(on_bus);
        gpus.nvidia_driver = Reading::failed("the library is not installed");
        gpus.nvidia_unasked = (0..told).map(|index| gpu(index, mib(81_559))).collect();
        let assembly = assemble(&file.cluster, &file.overrides, [(&id, &inventory)]);
        let found = (assembly.document.gpus.count, assembly.document.gpus.memory);
        assert_eq!(found, if counted { (2, 163_118) } else { (0, 0) }, "{what}");
        assert_eq!(assembly.incomplete.is_empty(), counted, "{what}");
        let said: Vec<String> = assembly.warnings.iter().map(ToString::to_string).collect();
        let is_told = said.iter().any(|said| {
            said.contains("2 NVIDIA GPUs are counted as") && said.contains("is not installed")
        });
        assert_eq!(is_told, counted, "{what}: {said:?}");
    }
}

#[test]
fn features_follow_from_the_compute_capability() {
    for (model, major, minor, expected) in [
        ("Tesla K80", 3, 7, &[][..]),
        ("NVIDIA Tesla M60", 5, 2, &[]),
        ("Tegra X1", 5, 3, &["fp16"]),
        ("Tesla P100", 6, 0, &["fp16"]),
        ("NVIDIA V100", 7, 0, &["fp16", "tensor_cores"]),
        ("Tesla T4", 7, 5, &["fp16", "tensor_cores"]),
        ("NVIDIA GeForce GTX 1660 Ti", 7, 5, &["fp16"]),
        ("NVIDIA T1000 8GB", 7, 5, &["fp16"]),
        ("Quadro T2000", 7, 5, &["fp16"]),
        ("NVIDIA A100-SXM4-80GB", 8, 0, &["fp16", "tensor_cores", "bf16"]),
        ("NVIDIA L40S", 8, 9, &["fp16", "tensor_cores", "bf16", "fp8"]),
        ("NVIDIA H100 80GB HBM3", 9, 0, &["fp16", "tensor_cores", "bf16", "fp8"]),
        ("NVIDIA B200", 10, 0, &["fp16", "tensor_cores", "bf16", "fp8"]),
    ] {
        assert_eq!(features(ComputeCapability { major, minor }, model), expected, "{model}");
    }
}

#[test]
fn a_mixed_node_has_the_features_of_its_weakest_gpu() {
    let mut inventory = inventory();
    let driver = known(&mut known(&mut inventory.gpus).nvidia_driver);
    driver.gpus[1].compute_capability = Some(ComputeCapability { major: 7, minor: 0 });
    driver.gpus[1].model = "NVIDIA V100".into();
    let (document, _) = assemble_one(&inventory, &Overrides::default());
    let gpus = &document.nodes.node_data[0].gpus;
    assert_eq!(gpus.features, ["fp16", "tensor_cores"]);
    assert_eq!(texts(&gpus.model_names), ["NVIDIA A100", "NVIDIA V100"]);
}

prop_compose! {
    fn any_disk()(size in 1..1_u64 << 50, local in any::<bool>()) -> (u64, bool) { (size, local) }
}

prop_compose! {
    fn any_node()(
        online in 1..1024_u32,
        memory in 1..1_u64 << 46,
        swap in 0..1_u64 << 40,
        disks in prop::collection::vec(any_disk(), 0..12),
        speeds in prop::collection::vec(prop::option::of(1..400_000_u64), 0..6),
        gpus in prop::collection::vec(1..1_u64 << 38, 0..9),
    ) -> Inventory {
        let disks = disks.into_iter().enumerate().map(|(index, (size, local))| Disk {
            name: format!("disk{index}"),
            size_bytes: Reading::Known(size),
            attachment: if local { Attachment::Local } else { Attachment::Network },
            model: None,
            rotational: None,
        });
        let nics = speeds.into_iter().enumerate().map(|(index, speed)| Nic {
            name: format!("eth{index}"),
            kind: NicKind::Ethernet,
            link: Link::Up,
            speed_mbps: speed.map_or(Reading::Absent, Reading::Known),
            driver: None,
        });
        let gpus: Vec<Gpu> = (0..).zip(gpus).map(|(index, memory)| Gpu {
            index,
            model: format!("model {}", memory % 3).into(),
            memory_bytes: Reading::Known(memory),
            compute_capability: None,
            uuid: None,
            pci_address: None,
            active_nvlinks: None,
            mig: None,
        }).collect();
        Inventory {
            machine: Reading::Absent,
            cpu: Reading::Known(Cpu {
                online, cores: None, sockets: None, numa_nodes: None, model: None, vendor: None,
            }).into(),
            memory: Reading::Known(Memory { total_bytes: memory, installed_bytes: Reading::Absent }),
            swap: Reading::Known(Swap { total_bytes: swap, zram_bytes: 7 }),
            disks: Reading::Known(disks.collect()).into(),
            nics: Reading::Known(nics.collect()).into(),
            gpus: Reading::Known(Gpus {
                nvidia_pci_devices: Reading::Known(u32::try_from(gpus.len()).expect("few")),
                passed_through: 0,
                lost: Vec::new(),
                amd: Reading::Absent,
                nvidia_unasked: Vec::new(),
                nvidia_driver: Reading::Known(NvidiaDriver {
                    version: None, cuda_version: None, gpus, failures: vec![],
                }),
                unmeasured: vec![],
            }),
        }
    }
}

/// The totals as a reader of the JSON would check them: from the inventories alone, in wide
/// arithmetic, rounding as the documentation says.
fn totals_written_independently(nodes: &[Inventory]) -> Vec<(&'static str, u128)> {
    let mib = |bytes: u64| u128::from(bytes >> 20);
    let mut sums = vec![
        ("/nodes/count", nodes.len() as u128),
        ("/gpus/count", 0),
        ("/gpus/memory", 0),
        ("/vcpus/count", 0),
        ("/memory", 0),
        ("/swap", 0),
        ("/storage/disks", 0),
        ("/storage/size", 0),
        ("/network/interfaces", 0),
        ("/network/txBandwidth", 0),
        ("/network/rxBandwidth", 0),
    ];
    let mut add = |path: &str, value: u128| {
        sums.iter_mut().find(|(known, _)| *known == path).expect(path).1 += value;
    };
    for node in nodes {
        let gpus = &node.gpus.known().expect("known").nvidia_driver.known().expect("known").gpus;
        for gpu in gpus {
            add("/gpus/count", 1);
            add("/gpus/memory", mib(*gpu.memory_bytes.known().expect("known")));
        }
        add("/vcpus/count", node.cpu.known().expect("known").online.into());
        add("/memory", mib(node.memory.known().expect("known").total_bytes));
        add("/swap", mib(node.swap.known().expect("known").total_bytes));
        let mut storage = 0;
        for disk in node.disks.known().expect("known") {
            if disk.attachment == Attachment::Local {
                add("/storage/disks", 1);
                storage += disk.size_bytes.known().expect("known");
            }
        }
        add("/storage/size", mib(storage));
        for nic in node.nics.known().expect("known") {
            let speed = nic.speed_mbps.known().copied().unwrap_or(0);
            add("/network/interfaces", 1);
            add("/network/txBandwidth", speed.into());
            add("/network/rxBandwidth", speed.into());
        }
    }
    sums
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn totals_of_a_thousand_nodes_are_the_sums_of_their_nodes(
        nodes in prop::collection::vec(any_node(), 1000),
    ) {
        let file = ClusterFile::read(&sample("cluster.yaml")).expect("the cluster file");
        let ids: Vec<NodeId> =
            (0..nodes.len()).map(|index| format!("n{index}").parse().expect("an id")).collect();
        let assembly = assemble(&file.cluster, &file.overrides, ids.iter().zip(&nodes));
        prop_assert_eq!(assembly.incomplete.len(), 0);
        let document = serde_json::to_value(&assembly.document).expect("JSON");
        for (path, expected) in totals_written_independently(&nodes) {
            let total = document.pointer(path).and_then(Value::as_u64).expect(path);
            prop_assert_eq!(u128::from(total), expected, "{}", path);
            // And each total is what a reader gets who adds up the nodes of the document.
            if path != "/nodes/count" {
                let entries = document.pointer("/nodes/nodeData").and_then(Value::as_array);
                let sum: u64 = entries.expect("a list").iter().map(|node| {
                    node.pointer(path).and_then(Value::as_u64).expect(path)
                }).sum();
                prop_assert_eq!(total, sum, "{}", path);
            }
        }
    }
}
