//! Device access rules for v1 lists and v2 eBPF programs.
