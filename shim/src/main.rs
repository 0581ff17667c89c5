//! The containerd shim of skeg.

fn main() {}
