//! `skeg ps`.
