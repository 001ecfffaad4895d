//! `rollcall-aggregator`: keeps the roll of a cluster's nodes, assembles the cluster onboarding
//! document from it and registers the cluster with the networks that want to schedule work there.
//!
//! The way of a report: [`intake`] takes it, [`roll`] admits it, [`store`] keeps it; [`document`]
//! assembles what the roll holds; [`onboarding`] plans and carries out the registration with a
//! network of [`targets`]. [`admin`] shows it all to operators, [`web`] as a page, [`status`] tells the service manager,
//! and [`checks`] what is in the way of it.

pub mod admin;
pub mod aggregator;
pub mod ca;
pub mod certificates;
pub mod checks;
pub mod class;
pub mod cli;
pub mod cluster_file;
pub mod connections;
pub mod digest;
pub mod document;
pub mod form;
pub mod intake;
pub mod kubernetes;
pub mod manifests;
pub mod metrics;
pub mod onboarding;
pub mod operator;
pub mod refusal;
pub mod roll;
pub mod serve;
pub mod status;
pub mod store;
pub mod targets;
pub mod tls;
pub mod tokens;
pub mod web;
