//! What both of rollcall's programs need because they are daemons, and nothing that either is for:
//! logging, readiness, `/metrics` and the probes, shutdown, secret files, outgoing HTTP,
//! the way to the Kubernetes API.

pub mod http;
pub mod kubernetes;
pub mod logging;
pub mod observe;
pub mod process;
pub mod readiness;
pub mod secret;
pub mod shutdown;
