//! What is checked of the Helm values: the very text that `document` prints.

use serde_json::Value;

use super::Facts;
use crate::certificates::Certificate;
use crate::checks::Verdict;
use crate::form::Form;
use crate::manifests;
use crate::targets::interlink::{form, values};

/// Whether the values can be read back, and hold what they should.
pub(super) fn values(facts: &Facts) -> Verdict {
    let endpoint = &facts.endpoint;
    let (Some(address), Some(port), Some(ca)) =
        (endpoint.address.seen(), endpoint.port.seen(), endpoint.ca.seen())
    else {
        return Verdict::skipped("address, port and CA are not all known");
    };
    let expected = (address.value.to_string(), port.value.get(), &ca.value);
    judge(&form(&address.value, port.value, &ca.value), &expected)
}

fn judge(form: &Form, expected: &(String, u16, &Vec<Certificate>)) -> Verdict {
    for variant in &form.variants {
        let name = variant.name;
        let text = match manifests::yaml(std::slice::from_ref(&variant.value)) {
            Ok(text) => text,
            Err(problem) => return Verdict::fail(format!("variant {name}: {problem}")),
        };
        let parsed = serde_saphyr::from_str::<Value>(&text).map_err(|error| error.to_string());
        match parsed.and_then(|parsed| values::read(&parsed)) {
            Ok((address, port, ca, indentation))
                if (address.clone(), port, &ca) == *expected && indentation.variant() == name => {}
            Ok(_) => {
                return Verdict::fail(format!(
                    "variant {name} holds other values than it was given, or in another form"
                ));
            }
            Err(problem) => return Verdict::fail(format!("variant {name}: {problem}")),
        }
    }
    let names: Vec<&str> = form.variants.iter().map(|variant| variant.name).collect();
    Verdict::pass(format!("address, port and CA, in {} forms: {}", names.len(), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::certificates::from_pem;
    use crate::checks::Outcome::{Fail, Pass};
    use crate::cluster_file::interlink::Address;

    #[test]
    fn read_back() {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([]).expect("no names");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let ca = from_pem(pem.as_bytes()).expect("a certificate");
        let address = Address::parse("10.1.2.3").expect("an address");
        let port = NonZeroU16::new(443).expect("a port");
        let right = || form(&address, port, &ca);
        let mut swapped = right();
        let values: Vec<Value> = swapped.variants.iter().map(|it| it.value.clone()).collect();
        for (variant, value) in swapped.variants.iter_mut().zip(values.into_iter().rev()) {
            variant.value = value;
        }
        let ours = ("10.1.2.3".to_owned(), 443, &ca);
        for (what, form, expected, outcome, words) in [
            ("as it should", right(), &ours, Pass, "in 2 forms: plain, unindented-chart"),
            (
                "another port",
                right(),
                &("10.1.2.3".to_owned(), 6443, &ca),
                Fail,
                "variant plain holds other values",
            ),
            ("one for the other", swapped, &ours, Fail, "variant plain holds other values"),
        ] {
            let verdict = judge(&form, expected);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(words), "{what}: {verdict:?}");
        }
    }
}
