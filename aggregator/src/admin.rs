//! The admin listener: metrics and probes for everybody, the operator's API for operators.

pub mod access;
pub mod router;
pub mod views;
