//! Black-box conformance tests for OCI runtimes.

fn main() {}
