//! What went wrong with a request to Kubernetes, in words that hold no credentials and say
//! everything once: the library's errors repeat their sources.

use std::error::Error;

use kube::client::AuthError;
use kube::config::KubeconfigError;
use rollcall_report::clean_text;

/// What a request came to, in one line that is not long. It holds no secret: the client of an
/// [`Access`](super::Access) takes those out of a refusal.
pub fn of(error: &kube::Error) -> String {
    let words = match error {
        kube::Error::Api(status) if status.message.is_empty() => {
            format!("it answered {} {}", status.code, status.reason)
        }
        kube::Error::Api(status) => format!("it answered {}: {}", status.code, status.message),
        kube::Error::SerdeError(error) => {
            format!("it answered something that is not of the Kubernetes API: {error}")
        }
        kube::Error::Auth(error) => credentials(error),
        // They show the proxy's URL with its password.
        kube::Error::ProxyProtocolUnsupported { .. }
        | kube::Error::ProxyProtocolDisabled { .. } => {
            "its proxy is not one of http:// or https://".to_owned()
        }
        kube::Error::Service(error) => chain(error.as_ref()),
        error => chain(error),
    };
    clean_text(&words)
}

/// Why there are no credentials. What a credential plugin printed is not shown: it prints them.
fn credentials(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { out, .. } => format!(
            "the kubeconfig's credential plugin failed ({}): try it with kubectl get nodes",
            out.status
        ),
        AuthError::AuthExecParse(_) => {
            "the kubeconfig's credential plugin printed no ExecCredential".to_owned()
        }
        error => chain(error),
    }
}

/// What is wrong with a kubeconfig. Of a mistake in its YAML the place alone is told: the lines
/// around it hold credentials.
pub(super) fn problem(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => {
            let place = error.location().map_or_else(String::new, |location| {
                format!(", line {}, column {}", location.line(), location.column())
            });
            format!("it is no YAML of a kubeconfig{place}")
        }
        // They hold a user and a password, or look so.
        KubeconfigError::ParseClusterUrl(_) => "it names a server that is no URL".to_owned(),
        KubeconfigError::ParseProxyUrl(_) => {
            "the proxy (its proxy-url, else HTTPS_PROXY) is no URL".to_owned()
        }
        error => chain(error),
    }
}

/// An error and its sources, each text once.
pub fn chain(error: &dyn Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Of one that repeats its source, what it says itself.
        while let Some(own) = texts.last().and_then(|last| before(last, &text)) {
            let own = own.to_owned();
            texts.pop();
            if !own.is_empty() {
                texts.push(own);
                break;
            }
        }
        if !text.is_empty() {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

/// What stands in `text` before `end`, if it ends with that.
fn before<'a>(text: &'a str, end: &str) -> Option<&'a str> {
    let own = text.strip_suffix(end).filter(|_| !end.is_empty())?;
    let is_whole = !own.ends_with(char::is_alphanumeric);
    is_whole.then(|| own.trim_end_matches([':', ' ']))
}

#[cfg(test)]
mod tests {
    use std::io;

    use kube::core::Status;
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    enum Layer {
        #[error("outer: {0}")]
        Repeats(#[source] io::Error),
        #[error("{0}")]
        IsItsSource(#[source] io::Error),
        #[error("outer")]
        SaysItsOwn(#[source] io::Error),
        #[error("the winner")]
        EndsAlike(#[source] io::Error),
        #[error("middle: {0}")]
        Twice(#[source] Box<Layer>),
        #[error("{0}")]
        Through(#[source] Box<Layer>),
    }

    #[test]
    fn everything_once() {
        let inner = || io::Error::other("inner");
        for (error, expected) in [
            (Layer::Repeats(inner()), "outer: inner"),
            (Layer::IsItsSource(inner()), "inner"),
            (Layer::SaysItsOwn(inner()), "outer: inner"),
            (Layer::SaysItsOwn(io::Error::other("")), "outer"),
            (Layer::EndsAlike(io::Error::other("inner")), "the winner: inner"),
            (Layer::EndsAlike(io::Error::other("ner")), "the winner: ner"),
            (Layer::Twice(Box::new(Layer::Repeats(inner()))), "middle: outer: inner"),
            (Layer::Through(Box::new(Layer::IsItsSource(inner()))), "inner"),
            (Layer::Twice(Box::new(Layer::IsItsSource(inner()))), "middle: inner"),
        ] {
            assert_eq!(chain(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn answers_of_the_api() {
        for (code, message, expected) in [
            (403, "nodes is forbidden", "it answered 403: nodes is forbidden"),
            (429, "", "it answered 429 slow down"),
            (502, "<html>\n<body>bad\tgateway", "it answered 502: <html> <body>bad gateway"),
        ] {
            let status = Status::failure(message, "slow down").with_code(code).boxed();
            assert_eq!(of(&kube::Error::Api(status)), expected);
        }
    }
}
