//! `skeg kill`.
