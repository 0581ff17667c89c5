//! cgroup v1 hierarchies.
