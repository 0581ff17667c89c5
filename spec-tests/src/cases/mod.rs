//! The cases, by subject.

use std::time::Duration;

use crate::failure::Outcome;
use crate::harness::Ctx;

mod apparmor;
mod costs;
mod descriptors;
mod exec;
mod exhaustion;
mod foreground;
mod hooks;
mod hostile;
mod input;
mod joining;
mod lifecycle;
mod limits;
mod load;
mod namespaces;
mod policy;
mod process;
mod properties;
mod races;
mod resources;
mod rootfs;
mod rules;
mod seccomp;
mod selinux;
mod systemd;
mod user;

/// Where a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// On this machine as it is.
    Real,
    /// Inside a host that may be damaged (fixture T1), whose files and mounts must be unchanged afterwards.
    Sacrificial,
}

/// One case.
pub struct Case {
    /// A short name; a catalogue row's number opens it (`a3_...`).
    pub name: &'static str,
    /// The sentence of the specification, or the row, that it checks.
    pub checks: &'static str,
    /// Where it runs.
    pub host: Host,
    /// How long it may take.
    pub limit: Duration,
    /// Whether nothing else may run beside it.
    pub alone: bool,
    /// What it does.
    pub run: fn(&Ctx) -> Outcome,
}

impl Case {
    const fn new(name: &'static str, checks: &'static str, run: fn(&Ctx) -> Outcome) -> Self {
        Self { name, checks, host: Host::Real, limit: Duration::from_secs(180), alone: false, run }
    }

    const fn sacrificial(mut self) -> Self {
        self.host = Host::Sacrificial;
        self
    }

    const fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

/// Every case, in the order in which a reader of the specification meets them.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        lifecycle::CASES,
        process::CASES,
        properties::CASES,
        rootfs::CASES,
        namespaces::CASES,
        limits::CASES,
        resources::CASES,
        hooks::CASES,
        exec::CASES,
        descriptors::CASES,
        seccomp::CASES,
        foreground::CASES,
        input::CASES,
        hostile::CASES,
        races::CASES,
        apparmor::CASES,
        costs::CASES,
        selinux::CASES,
        systemd::CASES,
        user::CASES,
        joining::CASES,
        policy::CASES,
        rules::CASES,
        load::CASES,
        exhaustion::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let mut seen = BTreeSet::new();
        for case in all() {
            assert!(seen.insert(case.name), "{} twice", case.name);
        }
    }
}
