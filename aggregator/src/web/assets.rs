//! The page's style, script and icon, as they are in the program.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use ring::digest::{Context, SHA256};

/// A file that is part of the program.
#[derive(Debug)]
pub(super) struct Asset {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

static ASSETS: [Asset; 3] = [
    Asset {
        name: "page.css",
        media_type: "text/css; charset=utf-8",
        text: include_str!("../../assets/page.css"),
    },
    Asset {
        name: "page.js",
        media_type: "text/javascript; charset=utf-8",
        text: include_str!("../../assets/page.js"),
    },
    Asset {
        name: "icon.svg",
        media_type: "image/svg+xml",
        text: include_str!("../../assets/icon.svg"),
    },
];

/// How many hexadecimal digits tell one set of files from another.
const VERSION_BYTES: usize = 6;

/// Names these files: others are found under another address, so that they may be kept for ever.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut context = Context::new(&SHA256);
    for asset in &ASSETS {
        context.update(asset.text.as_bytes());
    }
    let digest = context.finish();
    digest.as_ref().iter().take(VERSION_BYTES).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
});

/// Where a file is.
pub(super) fn path(name: &str) -> String {
    format!("/assets/{}/{name}", *VERSION)
}

/// A file by its version and name.
pub(super) fn find(version: &str, name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| version == *VERSION && asset.name == name)
}

impl IntoResponse for &'static Asset {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, self.media_type),
            (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
        ];
        (headers, self.text).into_response()
    }
}
