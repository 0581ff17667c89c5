//! The systemd cgroup driver.
