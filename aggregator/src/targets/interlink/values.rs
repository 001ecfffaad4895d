//! The Helm values that tell interLink's virtual kubelet how plugins reach the Kubernetes API.

use std::num::NonZeroU16;

use serde_json::{Value, json};

use crate::certificates::{self, Certificate};
use crate::cluster_file::interlink::Address;

/// How far the chart of today moves the certificate's first line to the right, and no other.
const MOVED_BY: &str = "      ";

/// Where the three values are, as JSON pointers.
pub const ADDRESS: &str = "/interlink/kubernetesApiAddr";
/// The port.
pub const PORT: &str = "/interlink/kubernetesApiPort";
/// The CA.
pub const CA: &str = "/interlink/kubernetesApiCaCrt";

/// How the certificate is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indentation {
    /// As it is.
    Plain,
    /// With six more spaces on all lines but the first, for a chart that moves the first line alone.
    Chart,
}

impl Indentation {
    /// The variant of the values that is written so.
    pub const fn variant(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Chart => "unindented-chart",
        }
    }
}

/// The values.
pub fn values(
    address: &Address,
    port: NonZeroU16,
    ca: &[Certificate],
    indentation: Indentation,
) -> Value {
    json!({"interlink": {
        "kubernetesApiAddr": address,
        "kubernetesApiPort": port,
        "kubernetesApiCaCrt": written(&certificates::to_pem(ca), indentation),
    }})
}

fn written(pem: &str, indentation: Indentation) -> String {
    let between = match indentation {
        Indentation::Plain => "\n",
        Indentation::Chart => &format!("\n{MOVED_BY}"),
    };
    // The chart puts a line's end after it.
    pem.lines().collect::<Vec<_>>().join(between)
}

/// The certificates of values, and how they are written down.
///
/// # Errors
///
/// What of the three is missing or wrong.
pub fn read(values: &Value) -> Result<(String, u16, Vec<Certificate>, Indentation), String> {
    let text = |pointer: &str| values.pointer(pointer).and_then(Value::as_str);
    let missing = |pointer: &str| {
        format!("{} is missing or empty", pointer.trim_start_matches('/').replace('/', "."))
    };
    let address = text(ADDRESS).filter(|it| !it.is_empty()).ok_or_else(|| missing(ADDRESS))?;
    let port = values.pointer(PORT).and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let port = port.ok_or_else(|| missing(PORT))?;
    let ca = text(CA).filter(|it| !it.is_empty()).ok_or_else(|| missing(CA))?;
    let later = || ca.lines().skip(1);
    let indentation = if later().all(|line| line.starts_with(MOVED_BY)) {
        Indentation::Chart
    } else if later().any(|line| line.starts_with(' ')) {
        return Err("the certificate's lines are indented unevenly".to_owned());
    } else {
        Indentation::Plain
    };
    let pem: Vec<&str> = ca.lines().map(str::trim_start).collect();
    let certificates = certificates::from_pem(pem.join("\n").as_bytes())
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    Ok((address.to_owned(), port, certificates, indentation))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn forms() {
        for (indentation, expected) in [
            (
                Indentation::Plain,
                "-----BEGIN CERTIFICATE-----\nMIIB\nAAAA\n-----END CERTIFICATE-----",
            ),
            (
                Indentation::Chart,
                "-----BEGIN CERTIFICATE-----\n      MIIB\n      AAAA\n      -----END CERTIFICATE-----",
            ),
        ] {
            assert_eq!(written(PEM, indentation), expected, "{indentation:?}");
        }
    }

    #[test]
    fn what_is_missing() {
        for (values, words) in [
            (json!({}), "interlink.kubernetesApiAddr is missing or empty"),
            (
                json!({"interlink": {"kubernetesApiAddr": "10.0.0.1", "kubernetesApiPort": 0}}),
                "interlink.kubernetesApiPort is missing or empty",
            ),
            (
                json!({"interlink": {"kubernetesApiAddr": "10.0.0.1", "kubernetesApiPort": 443, "kubernetesApiCaCrt": ""}}),
                "interlink.kubernetesApiCaCrt is missing or empty",
            ),
            (
                json!({"interlink": {"kubernetesApiAddr": "10.0.0.1", "kubernetesApiPort": 443, "kubernetesApiCaCrt": "no PEM"}}),
                "the certificate cannot be read",
            ),
            (
                json!({"interlink": {"kubernetesApiAddr": "10.0.0.1", "kubernetesApiPort": 443, "kubernetesApiCaCrt": "a\n b\nc"}}),
                "indented unevenly",
            ),
        ] {
            let error = read(&values).expect_err(words);
            assert!(error.contains(words), "{values}: {error}");
        }
    }
}
