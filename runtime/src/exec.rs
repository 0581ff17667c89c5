//! `skeg exec`.
