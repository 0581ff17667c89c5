//! Real containers, end to end: what runtime-spec 1.3 asks beyond the common case.
//!
//! They need root and Debian's busybox-static; without them each test says so and passes. Every container has an id, a
//! state root and a bundle of its own, and goes when its test ends, however it ends.

#![allow(clippy::disallowed_methods, reason = "a test: it starts processes and makes bundles")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod agent;
mod joined_pid;
mod net_devices;
mod notify_socket;
mod properties;
mod rootless;
mod seccomp_notify;
mod support;
mod sys;
mod user_namespaces;
