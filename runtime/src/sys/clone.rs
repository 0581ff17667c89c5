//! sys::clone
