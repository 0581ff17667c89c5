//! Time namespace offsets.
