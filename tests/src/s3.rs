//! A stand-in of a service that speaks S3, as far as a list of buckets goes. It checks signatures
//! (AWS signature version 4, in the query) by computing them anew from what came over the wire.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use ring::{digest, hmac};

use crate::openssl::Issued;
use crate::serving::Serving;

/// The id of the access key that the stand-in takes.
pub const ACCESS_KEY_ID: &str = "ROLLCALLTESTKEYID";

/// The secret key that belongs to it.
pub const SECRET_KEY: &str = "the-secret-key/of+the=stand-in";

/// The region that the stand-in is in.
pub const REGION: &str = "us-east-1";

/// How far the clocks of a request and of the stand-in may be apart.
const SKEW: SignedDuration = SignedDuration::from_mins(15);

/// How the stand-in answers, and what it was asked.
#[derive(Debug, Clone)]
pub struct S3State {
    /// The id of the access key that it takes.
    pub access_key_id: String,
    /// The secret key that belongs to it.
    pub secret_key: String,
    /// The region that it is in.
    pub region: String,
    /// The buckets that it lists.
    pub buckets: Vec<String>,
    /// Whether the key may list them.
    pub may_list: bool,
    /// How far its clock is ahead.
    pub clock: SignedDuration,
    /// Whether it is not S3, but a page for people.
    pub is_console: bool,
    /// What it was asked: method and path.
    pub requests: Vec<String>,
}

/// A running stand-in.
#[derive(Debug)]
pub struct S3Standin {
    state: Arc<Mutex<S3State>>,
    url: String,
    _serving: Serving,
}

impl S3Standin {
    /// Starts a stand-in on a free port; over TLS where there is a certificate.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub fn start(certificate: Option<&Issued>) -> Self {
        let state = Arc::new(Mutex::new(S3State {
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            region: REGION.to_owned(),
            buckets: vec!["models".to_owned(), "more-models".to_owned()],
            may_list: true,
            clock: SignedDuration::ZERO,
            is_console: false,
            requests: Vec::new(),
        }));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let serving = Serving::start(app, certificate);
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", serving.address);
        Self { state, url, _serving: serving }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How it answers and what it was asked; to be changed in place.
    pub fn state(&self) -> MutexGuard<'_, S3State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(state): State<Arc<Mutex<S3State>>>, request: Request) -> Response {
    let state = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(format!("{} {}", request.method(), request.uri().path()));
        state.clone()
    };
    if state.is_console {
        return "<html><title>Console</title></html>".into_response();
    }
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let asked = Asked {
        method: request.method().as_str(),
        host: host.unwrap_or_default(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
    };
    if let Some((status, code, message)) = state.refuses(&asked, Timestamp::now()) {
        return refusal(status, code, message);
    }
    let buckets = state.buckets.iter().fold(String::new(), |mut list, name| {
        let _ = write!(list, "<Bucket><Name>{name}</Name></Bucket>");
        list
    });
    let list = format!(
        "<ListAllMyBucketsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Owner><ID>x</ID></Owner><Buckets>{buckets}</Buckets></ListAllMyBucketsResult>"
    );
    xml(StatusCode::OK, &list)
}

fn refusal(status: u16, code: &str, message: &str) -> Response {
    // Such services repeat the key and what they have signed.
    let body = format!(
        "<Error><Code>{code}</Code><Message>{message}</Message><AWSAccessKeyId>{ACCESS_KEY_ID}</AWSAccessKeyId><Resource>/</Resource></Error>"
    );
    xml(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), &body)
}

fn xml(status: StatusCode, body: &str) -> Response {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}");
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

/// What of a request is signed.
#[derive(Debug)]
struct Asked<'a> {
    method: &'a str,
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl S3State {
    /// Why a request is refused, as MinIO says it: status, code, message.
    fn refuses(
        &self,
        asked: &Asked<'_>,
        now: Timestamp,
    ) -> Option<(u16, &'static str, &'static str)> {
        const MALFORMED: (u16, &str, &str) =
            (400, "AuthorizationQueryParametersError", "The query is malformed.");
        let pairs: Vec<(String, String)> = asked
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (unescaped(name), unescaped(value))
            })
            .collect();
        let value = |name: &str| pairs.iter().find(|(it, _)| it == name).map(|(_, it)| it.as_str());
        let Some(signature) = value("X-Amz-Signature") else {
            return Some((403, "AccessDenied", "Access Denied."));
        };
        let credential: Vec<&str> =
            value("X-Amz-Credential").unwrap_or_default().split('/').collect();
        let [id, day, region, "s3", "aws4_request"] = credential[..] else {
            return Some(MALFORMED);
        };
        let time = value("X-Amz-Date").unwrap_or_default();
        let parsed = DateTime::strptime("%Y%m%dT%H%M%SZ", time);
        let parsed = parsed.and_then(|time| time.to_zoned(TimeZone::UTC));
        let Ok(signed_at) = parsed.map(|time| time.timestamp()) else { return Some(MALFORMED) };
        let expires = value("X-Amz-Expires").and_then(|seconds| seconds.parse().ok());
        let Some(good_for) = expires.map(SignedDuration::from_secs) else { return Some(MALFORMED) };
        let is_sound = value("X-Amz-Algorithm") == Some("AWS4-HMAC-SHA256")
            && value("X-Amz-SignedHeaders") == Some("host")
            && time.starts_with(day);
        if !is_sound || region != self.region {
            return Some(MALFORMED);
        }
        if id != self.access_key_id {
            return Some((403, "InvalidAccessKeyId", "The key does not exist in our records."));
        }
        let now = now + self.clock;
        if signed_at > now + SKEW {
            return Some((403, "AccessDenied", "Request is not valid yet"));
        }
        if now > signed_at + good_for {
            return Some((403, "AccessDenied", "Request has expired"));
        }
        if signature != self.signature(asked, &pairs, [day, region], time) {
            return Some((403, "SignatureDoesNotMatch", "The signature does not match."));
        }
        match (asked.method, asked.path, self.may_list) {
            ("GET", "/", true) => None,
            ("GET", "/", false) => Some((403, "AccessDenied", "Access Denied.")),
            _ => Some((405, "MethodNotAllowed", "This stand-in lists buckets alone.")),
        }
    }

    /// The signature that a request should have.
    fn signature(
        &self,
        asked: &Asked<'_>,
        pairs: &[(String, String)],
        [day, region]: [&str; 2],
        time: &str,
    ) -> String {
        let mut query: Vec<(String, String)> = pairs
            .iter()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| (escaped(name), escaped(value)))
            .collect();
        query.sort();
        let query: Vec<String> =
            query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let canonical = [
            asked.method,
            asked.path,
            &query.join("&"),
            &format!("host:{}", asked.host),
            "",
            "host",
            "UNSIGNED-PAYLOAD",
        ];
        let hash = digest::digest(&digest::SHA256, canonical.join("\n").as_bytes());
        let scope = format!("{day}/{region}/s3/aws4_request");
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(hash.as_ref()));
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in scope.split('/') {
            key = keyed(&key, part);
        }
        hex(&keyed(&key, &to_sign))
    }
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Amazon's reference of the S3 API, "Authenticating Requests: Using Query
    /// Parameters".
    const QUERY: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256\
        &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
        &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
        &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

    #[test]
    fn as_in_amazons_reference() {
        let standin = S3Standin::start(None);
        let state = S3State {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            ..standin.state().clone()
        };
        let asked = |host: &'static str, query: &str, now: &str| {
            let now: Timestamp = now.parse().expect("a time");
            let asked = Asked { method: "GET", host, path: "/test.txt", query };
            state.refuses(&asked, now).map(|(_, code, _)| code)
        };
        let (host, day) = ("examplebucket.s3.amazonaws.com", "2013-05-24T12:00:00Z");
        // All but the path, which is no list of buckets, is as it should be.
        assert_eq!(asked(host, QUERY, day), Some("MethodNotAllowed"));
        for (what, host, query, now, expected) in [
            ("another host", "elsewhere", QUERY.to_owned(), day, "SignatureDoesNotMatch"),
            ("longer", host, QUERY.replace("=86400", "=96400"), day, "SignatureDoesNotMatch"),
            ("too late", host, QUERY.to_owned(), "2013-05-25T00:00:01Z", "AccessDenied"),
            ("too early", host, QUERY.to_owned(), "2013-05-23T23:00:00Z", "AccessDenied"),
            ("another key", host, QUERY.replace("EXAMPLE%2F", "X%2F"), day, "InvalidAccessKeyId"),
            (
                "elsewhere",
                host,
                QUERY.replace("us-east", "eu-west"),
                day,
                "AuthorizationQueryParametersError",
            ),
            ("none", host, String::new(), day, "AccessDenied"),
        ] {
            assert_eq!(asked(host, &query, now), Some(expected), "{what}");
        }
    }
}
