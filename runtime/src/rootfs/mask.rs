//! Masked and read-only paths.
