//! `skeg features`.
