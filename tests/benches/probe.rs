//! How long a probe takes, here and on every saved machine, and what it leaves in memory. Figures
//! for people, never a test: `make bench-parts`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints figures for people")]

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rollcall_agent::host::HostRoot;
use rollcall_agent::probe::{ProbeOptions, Prober};
use rollcall_tests::process::program;

const ROUNDS: usize = 200;

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/hosts");
    let mut roots = vec![("this machine".to_owned(), Path::new("/").to_owned())];
    for entry in fs::read_dir(hosts)? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        roots.push((name, folder.join("root")));
    }
    roots.sort();
    println!("{:<28} {:>10} {:>10} {:>10}", "PROBE", "MEDIAN US", "P99 US", "RSS KIB");
    for (name, root) in roots {
        let options = ProbeOptions {
            nvml_library: "/nonexistent/libnvidia-ml.so.1".into(),
            nvml_timeout: Duration::from_secs(10),
            nvml_program: program("rollcall-agent"),
            count_removable: false,
        };
        let mut prober = Prober::new(HostRoot::open(root)?, options);
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let start = Instant::now();
            runtime.block_on(prober.probe())?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let at = |part: usize| times.get(ROUNDS * part / 100).map_or(0, Duration::as_micros);
        println!("{name:<28} {:>10} {:>10} {:>10}", at(50), at(99), resident_kib()?);
    }
    Ok(())
}

/// This process's memory now.
fn resident_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|value| value.trim().strip_suffix(" kB")).unwrap_or_default().parse()?)
}
