//! `rollcall-agent`: probes the hardware of its node and reports it to the aggregator.
//!
//! The way of the data: [`host`] reads files below an injected root, [`probe`] makes an inventory
//! of them and a [`finding`] of each thing looked at, [`identity`] says whose it is, [`report`] puts
//! all together, [`send`] posts it as [`trust`] lets it, and [`run`] does so again and again, when [`schedule`] says
//! and when the kernel tells of a change ([`hotplug`]). [`health`] says how well all is known.
//! [`status`] tells the service manager. On Kubernetes [`stamp`] puts what was accepted on the Node, and tells what that carries already.
//! [`command`] is what a person types; [`explain`] shows the findings, [`capture`] saves a machine so
//! that it can be probed elsewhere.

mod bounded;
pub mod capture;
pub mod command;
pub mod config;
pub mod explain;
pub mod finding;
pub mod health;
pub mod host;
pub mod hotplug;
pub mod identity;
pub mod metrics;
pub mod probe;
pub mod report;
pub mod run;
pub mod schedule;
pub mod send;
pub mod stamp;
pub mod status;
pub mod trust;

use std::ffi::OsString;
use std::process::ExitCode;

use rollcall_daemon::{logging, usage};

use crate::config::Cli;

/// The program: exits with 0 when done, 1 when failed, 2 on wrong usage, 4 when only a new
/// container helps.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::read(args) {
        Ok(cli) => cli,
        Err(answer) => return usage::answer(env!("CARGO_PKG_NAME"), answer),
    };
    logging::init(env!("CARGO_PKG_NAME"), cli.log_level);
    match command::execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::failed("the agent has failed", &error);
            ExitCode::from(error.exit_code())
        }
    }
}
