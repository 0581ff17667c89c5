//! `skeg list`.
