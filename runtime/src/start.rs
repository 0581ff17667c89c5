//! `skeg start`.
