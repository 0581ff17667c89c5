//! `skeg run`.
