//! `skeg state`.
