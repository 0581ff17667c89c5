//! sys::mount
