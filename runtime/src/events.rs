//! `skeg events`.
