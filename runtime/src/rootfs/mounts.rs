//! The mounts of config.json, by fd.
