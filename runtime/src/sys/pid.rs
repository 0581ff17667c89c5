//! sys::pid
