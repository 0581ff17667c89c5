//! The parent's half of create: clone, id maps, cgroup, hooks, commit.
