//! Taking reports: `POST /v1/reports`.
//!
//! Every request is bounded in size and time, and who sends it is settled before its body is read.

pub mod accept;
pub mod authenticate;
pub mod certificate;
pub mod openapi;
pub mod parse;
pub mod review;
pub mod router;
