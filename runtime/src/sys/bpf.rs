//! sys::bpf
