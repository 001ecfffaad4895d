//! SHA-256 digests, by which contents are compared without keeping them.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A SHA-256 digest; hexadecimal on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 64, max_length = 64, pattern = "^[0-9A-Fa-f]{64}$")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of parts, one after the other, each with its length before it so that bytes
    /// cannot move from one part to the next unnoticed.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for part in parts {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }

    /// The first twelve digits: enough for people to compare.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        // Reading a number would let signs through.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a digest has 64 hexadecimal digits");
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_not_ascii| "not hexadecimal")?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_not_hex| "not hexadecimal")?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let digest = Digest::of(&[b"a", b"bc"]);
        assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        assert_ne!(digest, Digest::of(&[b"ab", b"c"]));
    }
}
