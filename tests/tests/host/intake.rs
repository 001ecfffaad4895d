//! A client of the intake that is none of rollcall's programs.

use std::error::Error;

use reqwest::{Certificate, Client, Identity};
use rollcall_daemon::http::install_crypto_provider;
use rollcall_report::error_chain;
use rollcall_tests::bed::report;
use rollcall_tests::host::Machine;
use rollcall_tests::host::authority::Pair;
use rollcall_tests::host::site::{INTAKE, Site};
use serde_json::Value;

/// Posts a report of a node to the site's intake, with a certificate or without, and returns the
/// status and the answer.
///
/// # Errors
///
/// Why there is no answer.
pub(crate) fn post(
    head: Machine<'_>,
    site: &Site,
    shown: Option<&Pair>,
    node: &str,
) -> Result<(u16, Value), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let address = (head.address(), INTAKE).into();
    // No machine of the bed has this number.
    let report = report(node, 0xF0).to_string();
    let exchange = async {
        install_crypto_provider();
        let ca = Certificate::from_pem(site.authority.pem().as_bytes())?;
        let mut client = Client::builder().no_proxy().tls_certs_only([ca]).resolve("head", address);
        if let Some(pair) = shown {
            let pem = format!("{}{}", pair.certificate, pair.key);
            client = client.identity(Identity::from_pem(pem.as_bytes())?);
        }
        let request = client.build()?.post(format!("https://head:{INTAKE}/v1/reports"));
        let request = request.header("Content-Type", "application/json").body(report);
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let body = answer.text().await?;
        Ok::<_, Box<dyn Error>>((status, serde_json::from_str(&body).unwrap_or(body.into())))
    };
    runtime.block_on(exchange).map_err(|error| error_chain(&*error))
}
