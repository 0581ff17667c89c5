//! `skeg delete`.
