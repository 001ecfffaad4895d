//! Bringing the cluster into a network's registry, exactly once.
//!
//! `plan` decides, purely, from what is wanted, what the network was seen to hold and what was done
//! before; `execute` carries out one step at a time and writes each down before it is taken.

pub mod classes;
pub mod drift;
pub mod execute;
pub mod expected;
pub mod gate;
pub mod infrastructure;
mod pace;
pub mod plan;
pub mod state;
pub mod withdrawn;
