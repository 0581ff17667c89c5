//! [`regex_lite`] under the name `regex`.
//!
//! oci-spec checks the text of `execCPUAffinity` with one regular expression and asks for the `regex` crate for it.
//! That engine would be a fifth of the runtime's program, which is copied into memory at each create, run and exec
//! (`sys/seal.rs`). `regex-lite`, by the same authors, has the same interface for what is used.

pub use regex_lite::Regex;
