//! sys::procfs
