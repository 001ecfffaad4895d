//! What went wrong with a request to Kubernetes, in words that hold no credentials and say
//! everything once: the library's errors repeat their sources.

use std::error::Error;

use kube::client::AuthError;

/// A request's failure.
pub(super) fn of(error: &kube::Error) -> String {
    match error {
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
    }
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

/// An error and its sources, each text once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // One that repeats its source says little else.
        while texts.last().is_some_and(|last| last.ends_with(&text) && *last != text) {
            let own = texts.pop().unwrap_or_default();
            let own = own.strip_suffix(&text).unwrap_or_default().trim_end_matches([':', ' ']);
            if own.is_empty() {
                continue;
            }
            texts.push(own.to_owned());
            break;
        }
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::io;

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
    }

    #[test]
    fn everything_once() {
        let inner = || io::Error::other("inner");
        for (error, expected) in [
            (Layer::Repeats(inner()), "outer: inner"),
            (Layer::IsItsSource(inner()), "inner"),
            (Layer::SaysItsOwn(inner()), "outer: inner"),
        ] {
            assert_eq!(chain(&error), expected, "{error:?}");
        }
    }
}
