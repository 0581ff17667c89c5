//! Control groups: where a container is, what it may use, who is in it.

pub mod devices;
pub mod systemd;
pub mod v1;
pub mod v2;
