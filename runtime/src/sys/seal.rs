//! sys::seal
