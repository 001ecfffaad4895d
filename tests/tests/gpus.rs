//! GPUs as the real agent finds them: machines made of files, and the stand-in of NVIDIA's library.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rollcall_tests::bed::{Bed, PATIENCE};
use rollcall_tests::machine::{Function, Machine, driver, gpus_of, h100};
use rollcall_tests::process::{DEADLINE, Daemon, nvml_standin};
use serde_json::{Value, json};

const H100_BYTES: u64 = 85_520_809_984;
const EIGHT: [&str; 8] = [
    "0000:18:00.0",
    "0000:2a:00.0",
    "0000:3a:00.0",
    "0000:5d:00.0",
    "0000:9a:00.0",
    "0000:ab:00.0",
    "0000:ba:00.0",
    "0000:db:00.0",
];

fn machine(addresses: &[&str]) -> Machine {
    let machine = Machine::new();
    for address in addresses {
        machine.add(Function::h100(address));
    }
    machine
}

fn usable(gpus: &Value) -> Vec<Value> {
    let usable = gpus.pointer("/nvidiaDriver/known/gpus").and_then(Value::as_array);
    usable.expect("the driver answers").clone()
}

fn failure(gpus: &Value) -> String {
    let reason = gpus.pointer("/nvidiaDriver/failed/reason").and_then(Value::as_str);
    reason.unwrap_or_else(|| panic!("the driver failed: {gpus}")).to_owned()
}

#[test]
fn without_a_gpu_the_library_is_not_loaded() {
    let machine = machine(&[]);
    machine.nvml(
        &json!({ "trouble": { "call": "nvmlInit_v2", "what": { "crashes": { "signal": 6 } } } }),
    );
    let gpus = machine.gpus();
    assert_eq!(gpus["nvidiaPciDevices"], json!({ "known": 0 }));
    assert_eq!(gpus["nvidiaDriver"], "absent");
}

#[test]
fn eight_equal_ones() {
    let machine = machine(&EIGHT);
    let linked = EIGHT.map(|address| {
        let mut gpu = h100(address);
        gpu["nvlinks"] = vec![true; 18].into();
        gpu
    });
    machine.nvml(&driver(&linked));
    let gpus = machine.gpus();
    assert_eq!(gpus["nvidiaPciDevices"], json!({ "known": 8 }));
    assert_eq!(gpus["lost"], Value::Null, "none");
    let usable = usable(&gpus);
    assert_eq!(usable.len(), 8);
    for (gpu, address) in usable.iter().zip(EIGHT) {
        assert_eq!(gpu["memoryBytes"], json!({ "known": H100_BYTES }));
        assert_eq!(gpu["pciAddress"], address);
        assert_eq!(gpu["computeCapability"], "9.0");
        assert_eq!(gpu["activeNvlinks"], 18);
        assert_eq!(gpu["mig"], Value::Null, "not divided");
    }
    let known = &gpus["nvidiaDriver"]["known"];
    assert_eq!((&known["version"], &known["cudaVersion"]), (&"580.159.04".into(), &"13.0".into()));
}

#[test]
fn different_models() {
    let machine = machine(&["0000:17:00.0", "0000:65:00.0"]);
    let mut other = h100("0000:65:00.0");
    other["name"] = "NVIDIA L4".into();
    other["memoryBytes"] = 24_152_899_584_u64.into();
    other["computeCapability"] = json!([8, 9]);
    other["nvlinks"] = json!([]);
    machine.nvml(&driver(&[h100("0000:17:00.0"), other]));
    let usable = usable(&machine.gpus());
    let models: Vec<&Value> = usable.iter().map(|gpu| &gpu["model"]).collect();
    assert_eq!(models, ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]);
    assert_eq!(usable[1]["memoryBytes"], json!({ "known": 24_152_899_584_u64 }));
    assert_eq!(usable[1]["activeNvlinks"], Value::Null, "it has none");
}

#[test]
fn one_is_divided_into_instances() {
    const NAME: &str = "NVIDIA H100 80GB HBM3 MIG 1g.10gb";
    let machine = machine(&["0000:17:00.0", "0000:65:00.0"]);
    let mut divided = h100("0000:17:00.0");
    divided["migMode"] = true.into();
    divided["migDevices"] = json!([
        { "name": NAME, "memoryBytes": 10_200_547_328_u64 },
        null,
        { "name": NAME, "memoryBytes": 10_200_547_328_u64 },
    ]);
    let mut whole = h100("0000:65:00.0");
    whole["migMode"] = false.into();
    machine.nvml(&driver(&[divided.clone(), whole.clone()]));
    let gpus = machine.gpus();
    let found = usable(&gpus);
    assert_eq!(found.len(), 2, "GPUs count, instances do not");
    let instance = json!({ "model": NAME, "memoryBytes": { "known": 10_200_547_328_u64 } });
    assert_eq!(found[0]["mig"], json!([instance, instance]), "an empty place is no instance");
    assert_eq!(found[0]["memoryBytes"], json!({ "known": H100_BYTES }), "all its memory");
    assert_eq!(found[1]["mig"], Value::Null);

    // Without the right to read the memory of the divided one.
    divided["memoryError"] = 4.into();
    machine.nvml(&driver(&[divided, whole]));
    let gpus = machine.gpus();
    let found = usable(&gpus);
    let reason = found[0].pointer("/memoryBytes/failed/reason").and_then(Value::as_str);
    assert!(reason.expect("not told").contains("no permission"), "{reason:?}");
    assert_eq!(found[1]["memoryBytes"], json!({ "known": H100_BYTES }));
    assert_eq!(gpus["lost"], Value::Null, "it answers");
}

#[test]
fn memory_that_is_the_machines_is_neither_known_nor_zero() {
    let machine = machine(&["000f:01:00.0"]);
    let mut shared = h100("000f:01:00.0");
    shared["name"] = "NVIDIA GB10".into();
    shared["memoryError"] = 3.into();
    machine.nvml(&driver(&[shared]));
    let gpus = machine.gpus();
    assert_eq!(usable(&gpus)[0]["memoryBytes"], "absent");
    assert_eq!(gpus["lost"], Value::Null, "domains are compared as numbers");
}

#[test]
fn an_integrated_gpu_is_on_no_bus() {
    let machine = machine(&[]);
    machine.write("sys/module/nvgpu/initstate", "live\n");
    let mut orin = h100("0000:00:00.0");
    orin["name"] = "Orin".into();
    orin["pciAddress"] = Value::Null;
    orin["memoryError"] = 3.into();
    machine.nvml(&driver(&[orin]));
    let gpus = machine.gpus();
    assert_eq!(gpus["nvidiaPciDevices"], json!({ "known": 0 }));
    assert_eq!(usable(&gpus)[0]["model"], "Orin");
    // Such a driver without its library is no failure: there may be no GPU.
    let without = machine.probe_with(&machine.beside("libnvidia-ml.so.1"), &[]);
    assert_eq!(gpus_of(&without)["nvidiaDriver"], "absent");
}

#[test]
fn what_is_on_the_bus_and_does_not_count() {
    let machine = machine(&["0000:17:00.0"]);
    let function = Function::h100("0000:17:00.4");
    machine.add(function);
    machine.make_virtual("0000:17:00.4", "0000:17:00.0");
    machine.add(Function { address: "0000:65:00.0", driver: Some("vfio-pci"), ..function });
    machine.add(Function { address: "0000:17:00.1", class: "0x040300", ..function });
    machine.add(Function { address: "0000:06:00.0", class: "0x068000", ..function });
    let vga = Function { class: "0x030000", device: "0x1fb0", ..function };
    machine.add(Function { address: "0000:c1:00.0", ..vga });
    machine.describe("0000:c1:00.0", "subsystem_vendor", "0x10de\n");
    machine.describe("0000:c1:00.0", "subsystem_device", "0x1485\n");
    let mut display = h100("0000:c1:00.0");
    display["name"] = "NVIDIA DGX Display".into();
    display["memoryBytes"] = (4_u64 << 30).into();
    machine.nvml(&driver(&[h100("0000:17:00.0"), display]));
    let output = machine.probe_with(&nvml_standin(), &[]);
    let gpus = gpus_of(&output);
    assert_eq!(gpus["nvidiaPciDevices"], json!({ "known": 1 }));
    assert_eq!(gpus["passedThrough"], 1);
    assert_eq!(usable(&gpus).len(), 1);
    assert_eq!(gpus["lost"], Value::Null);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let passed_over = report["passedOver"].as_array().expect("some").clone();
    let of_gpus = passed_over.iter().filter(|it| it["subject"] == "gpus");
    let mut rules: Vec<(&str, u64)> = of_gpus
        .map(|it| (it["rule"].as_str().unwrap_or(""), it["count"].as_u64().unwrap_or(0)))
        .collect();
    rules.sort_unstable();
    assert_eq!(rules, [("display-adapter", 1), ("no-gpu", 2), ("virtual-function", 1)]);

    // The display is known without its driver, too.
    machine.nvml(&json!({ "init": 9 }));
    let gpus = machine.gpus();
    assert_eq!(gpus["nvidiaPciDevices"], json!({ "known": 1 }));
    assert!(failure(&gpus).contains("modprobe nvidia"), "{gpus}");
}

#[test]
fn amd_gpus_and_accelerators() {
    let machine = machine(&[]);
    let amd = Function {
        address: "0000:05:00.0",
        vendor: "0x1002",
        device: "0x74a1",
        class: "0x120000",
        driver: Some("amdgpu"),
    };
    machine.add(amd);
    machine.describe("0000:05:00.0", "mem_info_vram_total", "206141652992\n");
    machine.add(Function { address: "0000:15:00.0", driver: None, ..amd });
    let integrated = Function { device: "0x164e", class: "0x030000", ..amd };
    machine.add(Function { address: "0000:75:00.0", ..integrated });
    machine.describe("0000:75:00.0", "mem_info_vram_total", "536870912\n");
    let gaudi = Function { address: "0000:33:00.0", vendor: "0x1da3", device: "0x1020", ..amd };
    machine.add(Function { driver: Some("habanalabs"), ..gaudi });
    let gpus = machine.gpus();
    let found = gpus.pointer("/amd/known").and_then(Value::as_array).expect("AMD's").clone();
    assert_eq!(found.len(), 2, "not the one in the processor: {found:?}");
    assert_eq!(found[0]["model"], "AMD Instinct MI300X");
    assert_eq!(found[0]["memoryBytes"], json!({ "known": 206_141_652_992_u64 }));
    let reason = found[1].pointer("/memoryBytes/failed/reason").and_then(Value::as_str);
    assert!(reason.expect("no driver").contains("load amdgpu"), "{reason:?}");
    let unmeasured = json!([
        { "pciAddress": "0000:33:00.0", "vendorId": "0x1da3", "deviceId": "0x1020" }
    ]);
    assert_eq!(gpus["unmeasured"], unmeasured);
}

#[test]
fn each_failure_of_the_driver_has_its_own_words() {
    let machine = machine(&["0000:17:00.0"]);
    let trouble = |what: Value| {
        let mut script = driver(&[h100("0000:17:00.0")]);
        script["trouble"] = json!({ "call": "nvmlDeviceGetName", "what": what });
        script
    };
    for (script, words) in [
        (json!({ "init": 4 }), "no permission: run the agent as root"),
        (json!({ "init": 9 }), "modprobe nvidia"),
        (json!({ "init": 12 }), "install all libraries"),
        (json!({ "init": 17 }), "control group"),
        (json!({ "init": 18 }), "different versions"),
        (json!({ "init": 999 }), "only a new container"),
        (json!({ "errors": { "nvmlDeviceGetCount_v2": 4 } }), "does not count its GPUs"),
        (trouble(json!({ "crashes": { "signal": 11 } })), "signal 11, SIGSEGV"),
        (trouble(json!({ "crashes": { "signal": 6 } })), "signal 6, SIGABRT"),
        (trouble(json!("hangs")), "did not answer within 1 s"),
    ] {
        machine.nvml(&script);
        let gpus = gpus_of(&machine.probe_with(&nvml_standin(), &["--nvml-timeout=1s"]));
        let reason = failure(&gpus);
        assert!(reason.contains(words), "{script}: {reason}");
        assert_eq!(gpus["nvidiaPciDevices"], json!({ "known": 1 }), "{script}");
        assert_eq!(gpus["lost"], Value::Null, "{script}");
    }
}

#[test]
fn one_gpu_that_fails_spoils_no_other() {
    let addresses = ["0000:17:00.0", "0000:65:00.0", "0000:ca:00.0"];
    let machine = machine(&addresses);
    for (field, value, words) in [
        ("handleError", json!(15), "Xid 79"),
        ("handleError", json!(4), "no permission"),
        ("memoryError", json!(15), "Xid 79"),
        ("memoryError", json!(16), "--gpu-reset"),
        ("errors", json!({ "nvmlDeviceGetName": 999 }), "does not say what is wrong"),
    ] {
        let mut all = addresses.map(h100);
        all[1][field] = value.clone();
        machine.nvml(&driver(&all));
        let gpus = machine.gpus();
        assert_eq!(usable(&gpus).len(), 2, "{field} {value}");
        assert_eq!(gpus["lost"], json!(["0000:65:00.0"]), "{field} {value}");
        let reason = gpus.pointer("/nvidiaDriver/known/failures/0/reason").and_then(Value::as_str);
        assert!(reason.expect("a reason").contains(words), "{field} {value}: {reason:?}");
    }
    // What only adds to a GPU and cannot be read is left out.
    let mut all = addresses.map(h100);
    all[1]["errors"] = json!({
        "nvmlDeviceGetUUID": 4, "nvmlDeviceGetCudaComputeCapability": 999,
        "nvmlDeviceGetMigMode": 999, "nvmlDeviceGetNvLinkState": 999,
    });
    machine.nvml(&driver(&all));
    let gpus = machine.gpus();
    assert_eq!(usable(&gpus).len(), 3);
    assert_eq!(usable(&gpus)[1]["uuid"], Value::Null);
    assert_eq!(usable(&gpus)[1]["activeNvlinks"], Value::Null);
}

/// The stand-in as an old library that lacks a function, under another name.
fn without(machine: &Machine, function: &str) -> PathBuf {
    let mut library = fs::read(nvml_standin()).expect("the stand-in");
    let name = [b"\0", function.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = library
        .windows(name.len())
        .enumerate()
        .filter_map(|(place, bytes)| (bytes == name).then_some(place))
        .collect();
    assert!(!places.is_empty(), "{function} is in the library");
    for place in places {
        library[place + 1] = b'x';
    }
    let path = machine.beside(&format!("{function}.so"));
    fs::write(&path, library).expect("written");
    path
}

#[test]
fn an_old_library_lacks_functions() {
    let machine = machine(&["0000:17:00.0"]);
    machine.nvml(&driver(&[h100("0000:17:00.0")]));
    let library = without(&machine, "nvmlDeviceGetMigMode");
    let gpus = gpus_of(&machine.probe_with(&library, &[]));
    assert_eq!(usable(&gpus)[0]["memoryBytes"], json!({ "known": H100_BYTES }));
    let library = without(&machine, "nvmlDeviceGetMemoryInfo_v2");
    let gpus = gpus_of(&machine.probe_with(&library, &[]));
    let reason = usable(&gpus)[0].pointer("/memoryBytes/failed/reason").cloned();
    let reason = reason.as_ref().and_then(Value::as_str).expect("not told");
    assert!(reason.contains("version 510"), "{reason}");
    let library = without(&machine, "nvmlInit_v2");
    let gpus = gpus_of(&machine.probe_with(&library, &[]));
    assert!(failure(&gpus).contains("nvmlInit_v2"), "{gpus}");
}

/// Starts an agent that looks at a machine again and again.
fn running(bed: &Bed, machine: &Machine, url: &str, library: &Path, more: &[&str]) -> Daemon {
    let arguments = [&["--interval=1s"], more].concat();
    bed.agent_with(url, &arguments, |agent: &mut Command| machine.prepare(agent, library))
}

/// Waits until an agent has said something so often.
fn wait_for(agent: &Daemon, words: &str, times: usize) {
    let begun = Instant::now();
    while agent.lines().iter().filter(|line| line.contains(words)).count() < times {
        assert!(begun.elapsed() < DEADLINE, "{words} {times} times\n{}", agent.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_driver_that_arrives_and_a_gpu_that_goes_and_comes_back() {
    let addresses = ["0000:17:00.0", "0000:65:00.0"];
    let machine = machine(&addresses);
    machine.nvml(&driver(&addresses.map(h100)));
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&[]);
    let library = machine.beside("libnvidia-ml.so.1");
    let agent = running(&bed, &machine, &aggregator.intake_url(), &library, &[]);
    agent.wait_for_line(|line| line.contains("libnvidia-ml.so.1 is not installed"), DEADLINE);

    // The library is installed while the agent runs.
    let new = machine.beside("new.so");
    fs::copy(nvml_standin(), &new).expect("copied");
    fs::rename(new, &library).expect("installed");
    agent.wait_for_line(|line| line.contains("probe works again subject=gpus"), DEADLINE);

    for round in 1..=2 {
        let mut with_lost = addresses.map(h100);
        with_lost[1]["handleError"] = 15.into();
        machine.nvml(&driver(&with_lost));
        wait_for(&agent, "Xid 79", round);
        machine.nvml(&driver(&addresses.map(h100)));
        wait_for(&agent, "probe works again subject=gpus", round + 1);
    }
    let begun = Instant::now();
    let count = || {
        let nodes = aggregator.ask(&["nodes", "--output", "json"]);
        assert!(begun.elapsed() < PATIENCE, "{nodes}");
        nodes.to_string().matches("NVIDIA H100 80GB HBM3").count()
    };
    while count() == 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn where_gpus_are_required_a_container_without_them_ends() {
    let machine = machine(&["0000:17:00.0"]);
    let bed = Bed::new("");
    let missing = machine.beside("libnvidia-ml.so.1");
    let standin = nvml_standin();
    let nowhere = "http://127.0.0.1:1";
    let required = ["--require-gpus"];
    for (script, library, words) in [
        (json!({}), &missing, "is not installed"),
        (json!({ "init": 999 }), &standin, "NVML code 999"),
    ] {
        machine.nvml(&script);
        let mut agent = running(&bed, &machine, nowhere, library, &required);
        agent.wait_for_line(|line| line.contains("only a new container helps"), DEADLINE);
        assert_eq!(agent.wait(DEADLINE).code(), Some(4), "{words}");
        assert!(agent.lines().iter().any(|line| line.contains(words)), "{:?}", agent.lines());
        // Unasked, it goes on.
        let mut agent = running(&bed, &machine, nowhere, library, &[]);
        agent.wait_for_line(|line| line.contains("report not accepted"), DEADLINE);
        assert_eq!(agent.terminate().code(), Some(0), "{words}");
    }
    // What may mend without a new container ends nothing.
    machine.nvml(&json!({ "init": 9 }));
    let mut agent = running(&bed, &machine, nowhere, &standin, &required);
    agent.wait_for_line(|line| line.contains("report not accepted"), DEADLINE);
    assert_eq!(agent.terminate().code(), Some(0));
}
