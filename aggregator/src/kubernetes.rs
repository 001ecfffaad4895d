//! What the Kubernetes API is used for: the cluster's Nodes, and which of several aggregators leads.
//! How it is reached is in [`rollcall_daemon::kubernetes`].

pub mod events;
pub mod leader;
pub mod leaving;
pub mod nodes;
pub mod stamping;
