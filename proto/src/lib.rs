//! Message types of the containerd APIs that the shim speaks, generated from `containerd/*.proto`.
//!
//! The fields are documented where containerd documents them; the numbers in the .proto files are its wire format.

pub use protobuf::{self, Enum, EnumOrUnknown, Message, MessageField};

#[allow(
    missing_docs,
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/containerd/mod.rs"));
}

pub use generated::*;
