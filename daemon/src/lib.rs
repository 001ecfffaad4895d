//! What both of rollcall's programs need because they are daemons, and nothing that either is for:
//! logging, what the service manager is told, troubles that are told once, readiness, `/metrics` and the
//! probes, shutdown, the command line's errors and tables, secret files, certificates, outgoing HTTP, the
//! way to the Kubernetes API.

pub mod certificate;
pub mod http;
pub mod kubernetes;
pub mod logging;
pub mod notify;
pub mod observe;
pub mod process;
pub mod readiness;
pub mod secret;
pub mod shutdown;
pub mod table;
pub mod trouble;
pub mod usage;
