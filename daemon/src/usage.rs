//! Wrong usage: what is answered to it, and where.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, Error};

use crate::logging;

/// What in an answer repeats the command line or the environment.
const REPEATED: [ContextKind; 3] =
    [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand];

/// An answer to wrong usage without what may be a password: a URL with a mistake in it cannot be told
/// apart, so that nothing is shown of any.
#[must_use]
pub fn without_passwords(mut answer: Error) -> Error {
    for kind in REPEATED {
        let Some(ContextValue::String(said)) = answer.get(kind) else { continue };
        if said.contains(['@', '/']) && said.contains(':') {
            answer.insert(kind, ContextValue::String("…".to_owned()));
        }
    }
    answer
}

/// Gives the answer: help and the version to stdout; why the program does not start to the journal,
/// in one line that is an error there, or else to stderr.
#[must_use]
pub fn answer(program: &str, answer: Error) -> ExitCode {
    let answer = without_passwords(answer);
    if !answer.use_stderr() || !logging::wrong_usage(program, &answer.to_string()) {
        // Nobody is left to tell if printing fails.
        drop(answer.print());
    }
    u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command, value_parser};
    use url::Url;

    use super::*;

    #[test]
    fn what_may_be_a_password_is_not_repeated() {
        let url = Arg::new("server").long("server").value_parser(value_parser!(Url));
        let count = Arg::new("count").long("count").value_parser(value_parser!(u8));
        let command = Command::new("program").args([url, count]);
        for (arguments, expected) in [
            (&["--server=https://user:hunter2@h:76555"][..], "invalid value '…' for '--server"),
            (&["--server", "user:hunter2@h"], ""),
            (&["https://user:hunter2@h"], "unexpected argument '…'"),
            (&["--count=https://user:hunter2@h"], "invalid value '…' for '--count"),
            (&["--count=many"], "invalid value 'many' for '--count"),
            (&["--counts=1"], "unexpected argument '--counts'"),
        ] {
            let all = ["program"].iter().chain(arguments);
            match command.clone().try_get_matches_from(all) {
                Ok(_) => assert_eq!(expected, "", "{arguments:?} is right"),
                Err(error) => {
                    let said = without_passwords(error).to_string();
                    assert!(said.contains(expected), "{arguments:?}: {said}");
                    assert!(!said.contains("hunter2"), "{arguments:?}: {said}");
                }
            }
        }
    }
}
