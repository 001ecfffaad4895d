//! Signs a request in its query, by AWS signature version 4 as S3 takes it ("Authenticating Requests:
//! Using Query Parameters" in Amazon's reference of the S3 API): what goes over the wire is good for
//! one request and a while, and the secret key is not in it.
//!
//! One request without headers of its own is all that is ever signed: a library for it would bring a
//! second implementation of the hash beside that of TLS.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ring::{digest, hmac};
use rollcall_daemon::secret::Secret;
use url::Url;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "s3";
const TERMINATOR: &str = "aws4_request";

/// Who signs, and for where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signer<'a> {
    pub(super) access_key_id: &'a Secret,
    pub(super) secret_key: &'a Secret,
    pub(super) region: &'a str,
}

impl Signer<'_> {
    /// The URL of a `GET` without a query, signed at `now` and good for `good_for`.
    pub(super) fn get(&self, url: &Url, now: Timestamp, good_for: Duration) -> Url {
        let now = now.to_zoned(TimeZone::UTC);
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = now.strftime("%Y%m%d").to_string();
        let scope = format!("{day}/{}/{SERVICE}/{TERMINATOR}", self.region);
        let credential = format!("{}/{scope}", self.access_key_id.expose());
        // In the order of their names, as they are signed.
        let query = format!(
            "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={time}&X-Amz-Expires={}&X-Amz-SignedHeaders=host",
            escaped(&credential),
            good_for.as_secs(),
        );
        let host = host_header(url);
        let request =
            format!("GET\n{}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", url.path());
        let hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let to_sign = format!("{ALGORITHM}\n{time}\n{scope}\n{hash}");
        let first = format!("AWS4{}", self.secret_key.expose());
        let key = [day.as_str(), self.region, SERVICE, TERMINATOR]
            .iter()
            .fold(first.into_bytes(), |key, part| sign(&key, part).as_ref().to_vec());
        let signature = hex(sign(&key, &to_sign).as_ref());
        let mut signed = url.clone();
        signed.set_query(Some(&format!("{query}&X-Amz-Signature={signature}")));
        signed
    }
}

fn sign(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// The header `Host` as it is sent: with the port, where that is not the scheme's own.
fn host_header(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// As a value in a query is signed: all but RFC 3986's unreserved characters are escaped.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail, here and below.
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn as_in_amazons_reference() {
        let (id, key) =
            (secret("AKIAIOSFODNN7EXAMPLE"), secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"));
        let signer = Signer { access_key_id: &id, secret_key: &key, region: "us-east-1" };
        let url = Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").expect("a URL");
        let now: Timestamp = "2013-05-24T00:00:00Z".parse().expect("a time");
        let made = signer.get(&url, now, Duration::from_hours(24));
        assert_eq!(
            made.as_str(),
            "https://examplebucket.s3.amazonaws.com/test.txt\
             ?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn names_and_ports() {
        for (url, expected) in [
            ("http://minio:9000", "minio:9000"),
            ("http://minio:80", "minio"),
            ("https://s3.example.org:443/", "s3.example.org"),
            ("http://[::1]:9000", "[::1]:9000"),
        ] {
            assert_eq!(host_header(&Url::parse(url).expect("a URL")), expected);
        }
        assert_eq!(escaped("a+b/ü~"), "a%2Bb%2F%C3%BC~");
    }
}
