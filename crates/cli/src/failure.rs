//! How a command fails: one sentence for a person, and an exit code. Must not know any command.

use std::fmt::Display;
use std::process::ExitCode;

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Says what happened, to what, and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Failure {
    sentence: String,
    code: u8,
}

impl Failure {
    /// The request itself was wrong and nothing was changed: exit code 2, as clap uses for bad arguments.
    pub fn input(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 2 }
    }

    /// The request was understood and could not be carried out: exit code 1.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 1 }
    }

    /// With an exit code of its own, for processes that are watched by others.
    pub fn with_code(sentence: impl Into<String>, code: u8) -> Self {
        Self { sentence: sentence.into(), code }
    }

    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// Adds to an error of a lower layer what was being done.
pub trait While<T> {
    /// # Errors
    /// The error, in front of it `doing`: "could not <doing>: <error>".
    fn doing(self, doing: impl Display) -> Outcome<T>;
}

impl<T, E: Display> While<T> for Result<T, E> {
    fn doing(self, doing: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure::failed(format!("could not {doing}: {error}")))
    }
}
