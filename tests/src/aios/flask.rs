//! How Flask reads requests and writes replies, and what Python makes of JSON values.

use std::fmt::{self, Write as _};

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// The content type of the pages that Flask makes itself.
pub(super) const HTML: &str = "text/html; charset=utf-8";

pub(super) fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// JSON as Flask writes it: keys sorted at every level.
///
/// Written without a copy being sorted first: a cluster of a thousand nodes is a megabyte.
#[derive(Debug)]
pub(super) struct Json(String);

impl Json {
    pub(super) fn of(value: impl Into<Value>) -> Self {
        let mut text = String::new();
        write_sorted(&value.into(), &|_| true, &mut text);
        Self(text)
    }

    /// An object, with those fields at every level that are to be shown.
    pub(super) fn of_fields(
        fields: &Map<String, Value>,
        is_shown: &dyn Fn(&Value) -> bool,
    ) -> Self {
        let mut text = String::new();
        write_object(fields, is_shown, &mut text);
        Self(text)
    }
}

fn write_sorted(value: &Value, is_shown: &dyn Fn(&Value) -> bool, text: &mut String) {
    match value {
        Value::Object(fields) => write_object(fields, is_shown, text),
        Value::Array(items) => {
            text.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                write_sorted(item, is_shown, text);
            }
            text.push(']');
        }
        Value::String(inner) => write_text(inner, text),
        Value::Null => text.push_str("null"),
        Value::Bool(truth) => text.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => match write!(text, "{number}") {
            // A `String` takes everything.
            Ok(()) | Err(fmt::Error) => {}
        },
    }
}

fn write_object(fields: &Map<String, Value>, is_shown: &dyn Fn(&Value) -> bool, text: &mut String) {
    let mut shown: Vec<_> = fields.iter().filter(|(_, value)| is_shown(value)).collect();
    shown.sort_unstable_by_key(|(name, _)| *name);
    text.push('{');
    for (place, (name, value)) in shown.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        write_text(name, text);
        text.push(':');
        write_sorted(value, is_shown, text);
    }
    text.push('}');
}

fn write_text(inner: &str, text: &mut String) {
    if inner.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        text.push_str(&Value::from(inner).to_string());
    } else {
        text.push('"');
        text.push_str(inner);
        text.push('"');
    }
}

/// A reply as Flask's `jsonify` writes it: the fields sorted, a newline at the end.
pub(super) fn jsonify<const N: usize>(
    status: StatusCode,
    mut fields: [(&str, Json); N],
) -> Response {
    fields.sort_unstable_by_key(|(name, _)| *name);
    let mut text = String::from("{");
    for (place, (name, Json(value))) in fields.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        write_text(name, &mut text);
        text.push(':');
        text.push_str(value);
    }
    text.push_str("}\n");
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Flask's page for a request that no view has answered.
pub(super) fn flask_error(status: StatusCode) -> Response {
    let (name, text) = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            ("Method Not Allowed", "The method is not allowed for the requested URL.")
        }
        StatusCode::INTERNAL_SERVER_ERROR => (
            "Internal Server Error",
            "The server encountered an internal error and was unable to complete your request. Either the server is overloaded or there is an error in the application.",
        ),
        _ => (
            "Not Found",
            "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.",
        ),
    };
    let code = status.as_u16();
    let page = format!(
        "<!doctype html>\n<html lang=en>\n<title>{code} {name}</title>\n<h1>{name}</h1>\n<p>{text}</p>\n"
    );
    (status, [(header::CONTENT_TYPE, HTML)], page).into_response()
}

/// Flask's `redirect()`.
pub(super) fn flask_redirect(location: &str) -> Response {
    let page = format!(
        "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n<p>You should be redirected automatically to the target URL: <a href=\"{location}\">{location}</a>. If not, click the link.\n"
    );
    let headers = [(header::CONTENT_TYPE, HTML), (header::LOCATION, location)];
    (StatusCode::FOUND, headers, page).into_response()
}

/// The body as Flask's `request.get_json()` gives it, or what its exception says.
pub(super) fn flask_json(headers: &HeaderMap, body: &[u8]) -> Result<Value, String> {
    let media_type = content_type(headers).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = media_type.strip_prefix("application/").unwrap_or_default();
    if subtype != "json" && !subtype.ends_with("+json") {
        return Err("415 Unsupported Media Type: Did not attempt to load JSON data because the \
                    request Content-Type was not 'application/json'."
            .to_owned());
    }
    // Why it is no JSON is told in Flask's debug mode only.
    serde_json::from_slice(body).map_err(|_why| {
        "400 Bad Request: The browser (or proxy) sent a request that this server could not \
         understand."
            .to_owned()
    })
}

/// Whether Python takes the value for false.
pub(super) fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The name of the value's type in Python.
pub(super) fn python_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}
