//! What the whole-flow tests share: stand-ins of foreign services, and a harness that runs
//! rollcall's real programs.

pub mod aios;
pub mod bed;
pub mod cluster;
pub mod fleet;
pub mod host;
pub mod kubernetes;
pub mod machine;
pub mod nginx;
pub mod oidc;
pub mod openssl;
pub mod process;
pub mod s3;
pub mod serving;
pub mod systemd;
pub mod terminal;
