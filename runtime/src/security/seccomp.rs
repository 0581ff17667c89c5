//! From an OCI seccomp profile to a BPF program.
