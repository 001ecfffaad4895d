//! The token of `AIchor`'s service account, and the Secret that Kubernetes puts it into.

use k8s_openapi::api::core::v1::Secret as SecretObject;
use rollcall_daemon::secret::Secret;

/// The type of Secrets that Kubernetes puts tokens into.
pub const KIND: &str = "kubernetes.io/service-account-token";

/// The Secret, as far as it is looked at.
#[derive(Debug, Clone, Default)]
pub struct TokenSecret {
    /// Its type.
    pub kind: String,
    /// The account whose token it is to hold.
    pub account: Option<String>,
    /// The UID of that account when the token was made.
    pub account_uid: Option<String>,
    /// The token, once Kubernetes has put it there.
    pub token: Option<Secret>,
}

impl TokenSecret {
    /// Whether it is one that Kubernetes fills with this account's token.
    pub fn is_of(&self, account: &str) -> bool {
        self.kind == KIND && self.account.as_deref() == Some(account)
    }
}

impl From<SecretObject> for TokenSecret {
    fn from(object: SecretObject) -> Self {
        let mut annotations = object.metadata.annotations.unwrap_or_default();
        let mut annotation =
            |name: &str| annotations.remove(&format!("kubernetes.io/service-account.{name}"));
        let token = object.data.and_then(|mut data| data.remove("token"));
        let token = token.and_then(|token| String::from_utf8(token.0).ok());
        Self {
            kind: object.type_.unwrap_or_default(),
            account: annotation("name"),
            account_uid: annotation("uid"),
            token: token.filter(|token| !token.is_empty()).map(Secret::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let object = serde_json::json!({
            "metadata": {"annotations": {
                "kubernetes.io/service-account.name": "a",
                "kubernetes.io/service-account.uid": "1",
            }},
            "data": {"token": "aHVudGVyMjI=", "ca.crt": "eA=="},
            "type": KIND,
        });
        let object: SecretObject = serde_json::from_value(object).expect("a Secret");
        let secret = TokenSecret::from(object);
        assert_eq!(secret.token.as_ref().map(Secret::expose), Some("hunter22"));
        assert_eq!(secret.account.as_deref(), Some("a"));
        assert_eq!(secret.account_uid.as_deref(), Some("1"));
        assert!(!format!("{secret:?}").contains("hunter22"), "{secret:?}");
        let empty = TokenSecret::from(SecretObject::default());
        assert!(empty.token.is_none(), "{empty:?}");
    }
}
