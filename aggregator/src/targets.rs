//! The networks that a cluster can be registered with, one module each.

pub mod aios;
