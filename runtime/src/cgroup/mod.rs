//! Control groups: where a container is, what it may use, who is in it.
//!
//! `plan` decides, without side effects, where the container goes and what is written there. [`Cgroup::create`] makes
//! the directories and writes the limits before anybody is inside; [`Cgroup::begin`] and [`Cgroup::finish`] do the same while
//! the init process is under way. It enters on v2 by `CLONE_INTO_CGROUP`, on v1 by writing `0` to each hierarchy's `tasks`
//! ([`CgroupEntry`]).
//!
//! v1 and v2 live side by side: a hybrid host has v1 hierarchies and one v2 hierarchy, and the container has a cgroup in
//! each. Everything below a mount point is opened by the rules for trees that skeg owns (`sys/path.rs`), the mount point
//! itself is checked to be a cgroup file system.

mod apply;
mod control;
pub mod devices;
mod hierarchies;
mod make;
mod oom;
mod place;
mod plan;
mod scope;
mod stats;
pub mod systemd;
mod update;
mod v1;
mod v2;
mod walk;

pub use self::hierarchies::{Hierarchies, Hierarchy};
pub use self::oom::{Seen, Watch};
pub use self::place::{Cgroup, CgroupEntry, CgroupPaths, SubCgroups};
pub use self::plan::{CgroupPlan, Manager, Options, needs_own_cgroup, plan};
pub use self::stats::Stats;

#[cfg(test)]
mod tests;
