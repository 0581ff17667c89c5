//! The root file system: mounts, devices, pivot, masks.

pub mod devices;
pub mod mask;
pub mod mounts;
pub mod options;
pub mod pivot;
