//! `skeg update`.
