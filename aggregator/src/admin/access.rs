//! Who may read and who may act on the admin listener.
//!
//! Acting needs the operator's token. Reading needs it too, except from this very machine: there it
//! is free, as long as the request is for this machine by name (a web page that a browser here has
//! open must not reach it through a name of its own).

use std::net::SocketAddr;

use axum::http::{HeaderMap, header};
use rollcall_report::{Refusal, RefusalCode};

use crate::tokens::{Tokens, basic_password, bearer};

/// The doors of the operator's API.
#[derive(Debug, Clone)]
pub struct Access {
    operators: Option<Tokens>,
    from_afar: bool,
}

impl Access {
    /// Lets those in that know an operator's token; `None`: nobody may act, and only this machine
    /// may read. A token that was sent in the clear by another machine is taken only if `from_afar`
    /// says so.
    pub fn new(operators: Option<Tokens>, from_afar: bool) -> Self {
        Self { operators, from_afar }
    }

    /// Whether a request may read.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn read(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        let no_credentials = !headers.contains_key(header::AUTHORIZATION);
        if no_credentials && is_here(peer) && names_this_machine(headers) {
            return Ok(());
        }
        self.act(peer, headers)
    }

    /// Whether a request may read the page: as any other, or with an operator's token as the password
    /// of HTTP Basic, which browsers ask people for. They send it by themselves from then on, also
    /// where another site makes them; so it opens nothing that acts.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn page(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        match basic_password(headers) {
            Some(password) => {
                let password = password?;
                self.operator(peer, Ok(password.expose()))
            }
            None => self.read(peer, headers),
        }
    }

    /// Whether a request may act.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn act(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        self.operator(peer, bearer(headers))
    }

    /// Whether a token that came from there is an operator's.
    fn operator(&self, peer: SocketAddr, token: Result<&str, Refusal>) -> Result<(), Refusal> {
        match &self.operators {
            Some(_) if !self.from_afar && !is_here(peer) => Err(Refusal {
                code: RefusalCode::Forbidden,
                message: "operators come from this very machine or pod (kubectl exec, kubectl port-forward), for the way here is plain HTTP; see --insecure-http"
                    .to_owned(),
            }),
            Some(tokens) => tokens.check(token?),
            None => Err(Refusal {
                code: RefusalCode::Forbidden,
                message:
                    "this aggregator has no operator's token: start it with --operator-token-file"
                        .to_owned(),
            }),
        }
    }
}

fn is_here(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let url = url::Url::parse(&format!("http://{host}"));
    url.is_ok_and(|url| rollcall_daemon::http::is_confidential(&url))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use rollcall_daemon::secret::Secret;

    use super::*;

    #[test]
    fn reading_and_acting() {
        let token = "an-operators-token-of-many-characters";
        let tokens = Tokens::new(&Secret::new(token.into())).expect("long enough");
        let with = Access::new(Some(tokens.clone()), true);
        let without = Access::new(None, true);
        let near = Access::new(Some(tokens), false);
        let (here, there) = ("127.0.0.1:9", "192.0.2.7:9");
        let bearer = format!("Bearer {token}");
        let missing = Err(RefusalCode::CredentialsMissing);
        let wrong = Err(RefusalCode::CredentialsWrong);
        let forbidden = Err(RefusalCode::Forbidden);
        for (what, access, peer, host, credentials, reading, acting) in [
            ("from here", &with, here, "localhost:7657", None, Ok(()), missing),
            ("from here, IPv6", &with, "[::1]:9", "[::1]:7657", None, Ok(()), missing),
            (
                "from here, mapped",
                &with,
                "[::ffff:127.0.0.1]:9",
                "127.0.0.1",
                None,
                Ok(()),
                missing,
            ),
            ("from here by another name", &with, here, "evil.example", None, missing, missing),
            ("from there", &with, there, "localhost", None, missing, missing),
            (
                "from there, with the token",
                &with,
                there,
                "a",
                Some(bearer.as_str()),
                Ok(()),
                Ok(()),
            ),
            (
                "from here, with a wrong token",
                &with,
                here,
                "localhost",
                Some("Bearer x"),
                wrong,
                wrong,
            ),
            ("in the clear, from there", &near, there, "a", Some(&bearer), forbidden, forbidden),
            ("in the clear, from here", &near, here, "a", Some(&bearer), Ok(()), Ok(())),
            ("no token is set, from here", &without, here, "localhost", None, Ok(()), forbidden),
            (
                "no token is set, from there",
                &without,
                there,
                "localhost",
                None,
                forbidden,
                forbidden,
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).expect("text"));
            if let Some(value) = credentials {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).expect("text"));
            }
            let peer = peer.parse().expect("an address");
            let code = |refusal: Refusal| refusal.code;
            assert_eq!(access.read(peer, &headers).map_err(code), reading, "reading {what}");
            assert_eq!(access.act(peer, &headers).map_err(code), acting, "acting {what}");
        }
    }

    #[test]
    fn basic_is_for_the_page_alone() {
        let token = "an-operators-token-of-many-characters";
        let tokens = Tokens::new(&Secret::new(token.into())).expect("long enough");
        let with = Access::new(Some(tokens.clone()), true);
        let without = Access::new(None, true);
        let near = Access::new(Some(tokens), false);
        let (here, there) = ("127.0.0.1:9", "192.0.2.7:9");
        let basic = |text: &str| Some(format!("Basic {}", BASE64_STANDARD.encode(text)));
        let right = || basic(&format!("root:{token}"));
        let missing = Err(RefusalCode::CredentialsMissing);
        let wrong = Err(RefusalCode::CredentialsWrong);
        let forbidden = Err(RefusalCode::Forbidden);
        for (what, access, peer, host, credentials, page) in [
            ("nothing, from here", &with, here, "localhost", None, Ok(())),
            ("nothing, from here by another name", &with, here, "evil.example", None, missing),
            ("nothing, from there", &with, there, "a", None, missing),
            ("the token, from there", &with, there, "a", right(), Ok(())),
            ("the token, from here by another name", &with, here, "evil.example", right(), Ok(())),
            ("without a user", &with, there, "a", basic(&format!(":{token}")), Ok(())),
            ("as a user", &with, there, "a", basic(&format!("{token}:")), wrong),
            ("as a user alone", &with, there, "a", basic(token), wrong),
            ("a password with more", &with, there, "a", basic(&format!("a:b:{token}")), wrong),
            ("another password", &with, here, "localhost", basic("root:hunter2"), wrong),
            ("no base64", &with, there, "a", Some(format!("Basic {token}")), wrong),
            ("no text", &with, there, "a", Some("Basic /w==".to_owned()), wrong),
            ("nothing after the scheme", &with, there, "a", Some("Basic ".to_owned()), wrong),
            ("a bearer", &with, there, "a", Some(format!("Bearer {token}")), Ok(())),
            ("another scheme", &with, there, "a", Some(format!("Digest {token}")), wrong),
            ("in the clear, from there", &near, there, "a", right(), forbidden),
            ("in the clear, from here", &near, here, "a", right(), Ok(())),
            ("no token is set", &without, there, "a", right(), forbidden),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).expect("text"));
            let is_basic = credentials.as_ref().is_some_and(|it| it.starts_with("Basic"));
            if let Some(value) = credentials {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&value).expect("text"));
            }
            let peer = peer.parse().expect("an address");
            let code = |refusal: Refusal| refusal.code;
            assert_eq!(access.page(peer, &headers).map_err(code), page, "the page, {what}");
            if is_basic {
                assert!(access.read(peer, &headers).is_err(), "reading the API, {what}");
                assert!(access.act(peer, &headers).is_err(), "acting, {what}");
            }
        }
    }
}
