//! `swarm`: the agents of a large cluster, played by one process against an aggregator's intake on this
//! machine. One line of JSON on stdout says what came of it.
//!
//! An agent here is a timer, a connection and a few numbers: what it reports is made from one saved
//! machine when it is sent. What is left out is the probing, and that an agent whose report was not
//! taken tries again before its interval is over.

mod connection;
mod drive;
mod options;
mod report;
mod tally;

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use rollcall_report::error_chain;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::connection::Intake;
use crate::drive::Swarm;
use crate::options::Options;

/// Files that are open besides the connections.
const OTHER_FILES: u64 = 64;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere left to say that stderr is gone.
            let _gone = writeln!(io::stderr(), "swarm: {}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let intake = Intake::new(options)?;
    allow_connections(options.connections())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let swarm = Swarm::new(options, intake)?;
        // Stopped early, it still tells how far it came.
        tokio::select! {
            () = swarm.run() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        io::Result::Ok(swarm.figures())
    })?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{figures}")?;
    Ok(stdout.flush()?)
}

/// Raises how many files may be open, as far as this process may.
fn allow_connections(connections: usize) -> Result<(), Box<dyn Error>> {
    let wanted = u64::try_from(connections)?.saturating_add(OTHER_FILES);
    let mut limit = getrlimit(Resource::Nofile);
    // `None` is no limit.
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if let Some(most) = limit.maximum.filter(|most| *most < wanted) {
        return Err(format!(
            "{connections} connections need {wanted} open files, and {most} are the most: raise ulimit -Hn"
        )
        .into());
    }
    limit.current = Some(wanted);
    Ok(setrlimit(Resource::Nofile, limit)?)
}
