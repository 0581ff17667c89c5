//! Capability sets.
