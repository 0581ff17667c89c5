//! `skeg pause` and `skeg resume`.
