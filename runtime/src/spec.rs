//! `skeg spec`.
