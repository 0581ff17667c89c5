//! How a case ends: it holds, it fails with a sentence, or this machine or runtime cannot show it.

use std::fmt;

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The runtime did not do what the case asks.
    Failed(String),
    /// The case cannot be shown here; the text says why.
    Skipped(String),
}

/// What a case, or a step of it, gives back.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with its sentence.
    pub fn new(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// The same with `what: ` in front.
    #[must_use]
    pub fn during(self, what: impl fmt::Display) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(format!("{what}: {text}")),
            Self::Skipped(text) => Self::Skipped(text),
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The exit status of a tool that found all well (`true`) or not, or could not look; the reason is printed.
pub fn exit_status(outcome: Outcome<bool>) -> i32 {
    match outcome {
        Ok(all_well) => i32::from(!all_well),
        Err(Failure::Failed(text) | Failure::Skipped(text)) => {
            eprintln!("spec-tests: {text}");
            1
        }
    }
}

/// Ends the case as not showable on this machine.
pub fn skip<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Failure::Skipped(reason.into()))
}

/// Says what was being done when something failed or was missing.
pub trait During<T> {
    /// Puts `what: ` in front of the failure.
    fn during(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<Failure>> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| error.into().during(what))
    }
}

impl<T> During<T> for Option<T> {
    fn during(self, what: impl fmt::Display) -> Outcome<T> {
        self.ok_or_else(|| Failure::new(format!("{what}: missing")))
    }
}

/// Fails the case with a sentence unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            return Err($crate::failure::Failure::new(format!($($text)+)));
        }
    };
}

/// Fails the case unless both values are equal, and prints both.
#[macro_export]
macro_rules! ensure_eq {
    ($actual:expr, $expected:expr, $($text:tt)+) => {{
        let (actual, expected) = (&$actual, &$expected);
        if actual != expected {
            return Err($crate::failure::Failure::new(
                format!("{}: found {actual:?}, expected {expected:?}", format!($($text)+)),
            ));
        }
    }};
}
