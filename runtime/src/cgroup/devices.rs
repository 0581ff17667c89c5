//! Device access: the rules of `/linux/resources/devices`, as v1's list and as v2's eBPF program.
//!
//! Everything is denied to begin with. The rules apply in order and the last one that matches decides (runtime-spec,
//! "Allowed Device list"); skeg's own default devices come after them, as in runc. A v1 list cannot express every
//! sequence of rules; one that it would get wrong is an error, for the kernel would silently allow what was denied.

use std::fmt::Write as _;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::cgroup::apply::Write;
use crate::cgroup::plan::{RESOURCES, invalid};
use crate::error::{Error, Result};
use crate::sys::bpf::{Insn, op};

/// mknod, read and write as bits, as the program's context has them (`BPF_DEVCG_ACC_*` of `linux/bpf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access(u8);

impl Access {
    const MKNOD: u8 = 1;
    const READ: u8 = 2;
    const WRITE: u8 = 4;
    const ALL: Self = Self(7);

    /// `rwm` in any order, at least one.
    fn parse(text: &str) -> Option<Self> {
        let bits = text.bytes().try_fold(0, |bits, letter| match letter {
            b'r' => Some(bits | Self::READ),
            b'w' => Some(bits | Self::WRITE),
            b'm' => Some(bits | Self::MKNOD),
            _ => None,
        })?;
        (bits != 0).then_some(Self(bits))
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Block or character, as the program's context has it (`BPF_DEVCG_DEV_*` of `linux/bpf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Char = 2,
}

/// The devices that a rule is about; no number is every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Devices {
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Devices {
    /// Whether every device of `other` is one of these.
    fn cover(self, other: Self) -> bool {
        let covers = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || mine == theirs;
        self.kind == other.kind && covers(self.major, other.major) && covers(self.minor, other.minor)
    }

    /// Whether there is a device in both.
    fn meet(self, other: Self) -> bool {
        let meets = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meets(self.major, other.major) && meets(self.minor, other.minor)
    }
}

/// One rule, about one kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    devices: Devices,
    access: Access,
    /// Its place in the config, for errors; none for the default devices.
    index: Option<usize>,
}

/// Default devices (runtime-spec, "Default Devices"): mknod of anything, which gives no access by itself, and the
/// devices that every container has.
const DEFAULTS: [(Devices, Access); 10] = [
    (Devices { kind: Kind::Char, major: None, minor: None }, Access(Access::MKNOD)),
    (Devices { kind: Kind::Block, major: None, minor: None }, Access(Access::MKNOD)),
    (Devices { kind: Kind::Char, major: Some(1), minor: Some(3) }, Access::ALL),
    (Devices { kind: Kind::Char, major: Some(1), minor: Some(8) }, Access::ALL),
    (Devices { kind: Kind::Char, major: Some(1), minor: Some(7) }, Access::ALL),
    (Devices { kind: Kind::Char, major: Some(5), minor: Some(0) }, Access::ALL),
    (Devices { kind: Kind::Char, major: Some(1), minor: Some(5) }, Access::ALL),
    (Devices { kind: Kind::Char, major: Some(1), minor: Some(9) }, Access::ALL),
    // Pseudo-terminals: the slaves and the multiplexer.
    (Devices { kind: Kind::Char, major: Some(136), minor: None }, Access::ALL),
    (Devices { kind: Kind::Char, major: Some(5), minor: Some(2) }, Access::ALL),
];

/// The rules of one container: what holds where none matches, then the rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    allow: bool,
    rules: Vec<Rule>,
}

impl Policy {
    /// # Errors
    /// A rule that makes no sense, with its JSON pointer.
    pub fn new(config: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut policy = Self { allow: false, rules: Vec::with_capacity(config.len() + DEFAULTS.len()) };
        for (index, rule) in config.iter().enumerate() {
            policy.add(index, rule)?;
        }
        for (devices, access) in DEFAULTS {
            // Where everything is allowed to begin with, mknod of anything would only undo what was denied on purpose.
            if !policy.allow || devices.major.is_some() {
                policy.rules.push(Rule { allow: true, devices, access, index: None });
            }
        }
        Ok(policy)
    }

    fn add(&mut self, index: usize, rule: &LinuxDeviceCgroup) -> Result<()> {
        let wrong = |field: &str, value: &dyn std::fmt::Debug, allowed: &str| {
            invalid(RESOURCES, &format!("devices/{index}/{field}"), value, allowed)
        };
        let text = rule.access().as_deref().unwrap_or_default();
        let access =
            Access::parse(text).ok_or_else(|| wrong("access", &text, "must be of the letters r, w, m"))?;
        let number = |field, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => match u32::try_from(value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(wrong(field, &value, "must be -1 (any) or a device number")),
            },
        };
        let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
        let kinds: &[Kind] = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A if major.is_none() && minor.is_none() && access == Access::ALL => {
                // Everything: what came before no longer matters.
                self.allow = rule.allow();
                self.rules.clear();
                return Ok(());
            }
            LinuxDeviceType::A => &[Kind::Block, Kind::Char],
            LinuxDeviceType::B => &[Kind::Block],
            LinuxDeviceType::C => &[Kind::Char],
            other => return Err(wrong("type", &other.as_str(), "must be a, b or c")),
        };
        self.rules.extend(kinds.iter().map(|&kind| Rule {
            allow: rule.allow(),
            devices: Devices { kind, major, minor },
            access,
            index: Some(index),
        }));
        Ok(())
    }

    /// The v1 writes: all denied, or all allowed, then each exception (`Documentation/admin-guide/cgroup-v1/devices.rst`).
    ///
    /// # Errors
    /// Rules that v1's list of exceptions cannot express.
    pub fn v1_writes(&self, base: &str) -> Result<Vec<Write>> {
        let exceptions = self.exceptions(base)?;
        let mut writes = Vec::with_capacity(exceptions.len() + 1);
        // From the state that a new cgroup inherits, `a` clears the list and sets the default.
        let (default, except) =
            if self.allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        writes.push(Write::new(default, "a", "devices"));
        for (devices, access) in exceptions {
            writes.push(Write::new(except, v1_text(devices, access), "devices"));
        }
        Ok(writes)
    }

    /// What differs from the default.
    fn exceptions(&self, base: &str) -> Result<Vec<(Devices, Access)>> {
        let mut list: Vec<(Devices, Access)> = Vec::with_capacity(self.rules.len());
        for rule in &self.rules {
            if rule.allow != self.allow {
                match list.iter_mut().find(|(devices, _)| *devices == rule.devices) {
                    Some((_, access)) => access.0 |= rule.access.0,
                    None => list.push((rule.devices, rule.access)),
                }
                continue;
            }
            for (devices, access) in &mut list {
                if rule.devices.cover(*devices) {
                    *access = access.without(rule.access);
                } else if rule.devices.meet(*devices) && rule.access.meets(*access) {
                    let at = rule.index.map_or("the default devices".to_owned(), |index| index.to_string());
                    return Err(Error::new(format!(
                        "{base}/devices/{at}: cgroup v1 cannot take {} out of {}, which an earlier rule is about",
                        v1_text(rule.devices, rule.access),
                        v1_text(*devices, *access),
                    )));
                }
            }
            list.retain(|(_, access)| access.0 != 0);
        }
        Ok(list)
    }

    /// The v2 program (`BPF_PROG_TYPE_CGROUP_DEVICE`): 1 allows, 0 denies.
    ///
    /// From the last rule to the first, so that the last that matches decides; the bits of the access that are still
    /// undecided stand in a register, for one rule may decide reading and another one writing.
    pub fn program(&self) -> Vec<Insn> {
        const KIND: u8 = 2;
        const UNDECIDED: u8 = 3;
        const MAJOR: u8 = 4;
        const MINOR: u8 = 5;
        // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor, 32 bits each; r1 points to it.
        let mut program = vec![
            Insn::load_u32(KIND, 1, 0),
            Insn::load_u32(MAJOR, 1, 4),
            Insn::load_u32(MINOR, 1, 8),
            Insn::copy(UNDECIDED, KIND),
            Insn::alu(op::AND, KIND, 0xffff),
            Insn::alu(op::SHIFT_RIGHT, UNDECIDED, 16),
        ];
        for rule in self.rules.iter().rev() {
            let verdict = if rule.allow {
                let left = i32::from(Access::ALL.without(rule.access).0);
                vec![Insn::alu(op::AND, UNDECIDED, left), Insn::jump_unless_equal(UNDECIDED, 0, 2)]
            } else {
                vec![
                    Insn::copy(1, UNDECIDED),
                    Insn::alu(op::AND, 1, rule.access.0.into()),
                    Insn::jump_if_equal(1, 0, 2),
                ]
            };
            let mut conditions = vec![(KIND, rule.devices.kind as u32)];
            conditions.extend(rule.devices.major.map(|major| (MAJOR, major)));
            conditions.extend(rule.devices.minor.map(|minor| (MINOR, minor)));
            // What is jumped over: the conditions that follow, the verdict, and its return.
            let mut ahead = conditions.len() + verdict.len() + 2;
            for (register, number) in conditions {
                ahead -= 1;
                let over = i16::try_from(ahead).unwrap_or(i16::MAX);
                program.push(Insn::jump_unless_equal(register, number.cast_signed(), over));
            }
            program.extend(verdict);
            program.extend(Insn::return_value(rule.allow.into()));
        }
        program.extend(Insn::return_value(self.allow.into()));
        program
    }
}

/// `c 1:3 rwm`, with `*` for any number, as `devices.allow` takes it and `devices.list` shows it.
fn v1_text(devices: Devices, access: Access) -> String {
    let mut text = String::with_capacity(16);
    text.push_str(match devices.kind {
        Kind::Block => "b ",
        Kind::Char => "c ",
    });
    for (number, end) in [(devices.major, ':'), (devices.minor, ' ')] {
        match number {
            Some(number) => {
                let _ = write!(text, "{number}");
            }
            None => text.push('*'),
        }
        text.push(end);
    }
    for (bit, letter) in [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')] {
        if access.0 & bit != 0 {
            text.push(letter);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bpf::interpret;

    fn config(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    fn v1(json: &str) -> Result<String> {
        let writes = Policy::new(&config(json))?.v1_writes(RESOURCES)?;
        let lines: Vec<_> = writes.iter().map(|write| format!("{} {}", write.file, write.value)).collect();
        Ok(lines.join("; "))
    }

    /// Every device and access that the rules of a test can tell apart.
    fn accesses() -> impl Iterator<Item = (Kind, u32, u32, u8)> {
        let kinds = [Kind::Block, Kind::Char].into_iter();
        kinds.flat_map(|kind| {
            let majors = [0, 1, 2, 5, 8, 136, u32::MAX].into_iter();
            majors.flat_map(move |major| {
                let minors = [0, 1, 2, 3, 9, 0xfffff].into_iter();
                minors.flat_map(move |minor| (1..=7).map(move |access| (kind, major, minor, access)))
            })
        })
    }

    /// The reading of the spec, bit by bit: the last rule that matches decides.
    fn allowed(policy: &Policy, (kind, major, minor, access): (Kind, u32, u32, u8)) -> bool {
        let one = Devices { kind, major: Some(major), minor: Some(minor) };
        [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let last =
                policy.rules.iter().rev().find(|rule| rule.devices.cover(one) && rule.access.0 & bit != 0);
            last.map_or(policy.allow, |rule| rule.allow)
        })
    }

    /// A small generator of numbers, so that a failure can be had again.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }

        fn rule(&mut self) -> LinuxDeviceCgroup {
            let kind = ["a", "b", "c", "c"][usize::try_from(self.below(4)).unwrap()];
            let numbers = [-1, 0, 1, 2, 5, 8];
            let mut number = || numbers[usize::try_from(self.below(6)).unwrap()];
            let (major, minor) = (number(), number());
            let access = ["r", "w", "m", "rw", "rwm", "rwm", "wm"][usize::try_from(self.below(7)).unwrap()];
            let allow = self.below(2) == 0;
            let json = serde_json::json!({"allow": allow, "type": kind, "major": major, "minor": minor, "access": access});
            serde_json::from_value(json).unwrap()
        }
    }

    /// security.md D7: the program decides every access as the rules say, for rules of all kinds.
    #[test]
    fn d7_program_decides_as_the_rules_say() {
        let mut random = Random(1);
        for _ in 0..200 {
            let rules: Vec<_> = (0..random.below(6)).map(|_| random.rule()).collect();
            let policy = Policy::new(&rules).unwrap();
            let program = policy.program();
            for access in accesses() {
                let (kind, major, minor, bits) = access;
                let context = [u32::from(bits) << 16 | kind as u32, major, minor];
                let verdict = interpret(&program, &context) == 1;
                assert_eq!(verdict, allowed(&policy, access), "{rules:?} {access:?}");
            }
        }
    }

    /// security.md D7: what v1's list allows is what the rules allow, or the rules are refused.
    #[test]
    fn d7_list_allows_what_the_rules_allow() {
        let mut random = Random(2);
        let mut expressed = 0;
        for _ in 0..400 {
            let rules: Vec<_> = (0..random.below(5)).map(|_| random.rule()).collect();
            let policy = Policy::new(&rules).unwrap();
            let Ok(exceptions) = policy.exceptions("") else { continue };
            expressed += 1;
            for access in accesses() {
                let (kind, major, minor, bits) = access;
                let one = Devices { kind, major: Some(major), minor: Some(minor) };
                // device_cgroup.c: an exception that covers all of the access, or, where all is allowed, any of it.
                let excepted = exceptions.iter().filter(|(devices, _)| devices.cover(one));
                let mine = if policy.allow {
                    !excepted.clone().any(|(_, denied)| denied.0 & bits != 0)
                } else {
                    excepted.clone().any(|(_, allowed)| bits & !allowed.0 == 0)
                };
                // Two exceptions that allow a part each do not add up in the kernel: it denies, which is the safe side.
                if !policy.allow && !mine {
                    continue;
                }
                assert_eq!(mine, allowed(&policy, access), "{rules:?} {access:?}");
            }
        }
        assert!(expressed > 100, "{expressed}");
    }

    #[test]
    fn d7_rules_become_a_default_and_exceptions() {
        let defaults = "devices.allow c *:* m; devices.allow b *:* m; devices.allow c 1:3 rwm; devices.allow c 1:8 rwm; \
             devices.allow c 1:7 rwm; devices.allow c 5:0 rwm; devices.allow c 1:5 rwm; devices.allow c 1:9 rwm; \
             devices.allow c 136:* rwm; devices.allow c 5:2 rwm";
        assert_eq!(v1("[]").unwrap(), format!("devices.deny a; {defaults}"));
        assert_eq!(v1(r#"[{"allow":false,"access":"rwm"}]"#).unwrap(), format!("devices.deny a; {defaults}"));
        let fuse = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"wr"}]"#;
        assert_eq!(v1(fuse).unwrap(), format!("devices.deny a; devices.allow c 10:229 rw; {defaults}"));
        let all_but =
            r#"[{"allow":true,"type":"a","access":"rwm"},{"allow":false,"type":"b","major":8,"access":"w"}]"#;
        assert_eq!(v1(all_but).unwrap(), "devices.allow a; devices.deny b 8:* w");
        // Everything, but for one access only, is not everything.
        let write = r#"[{"allow":true,"access":"w"}]"#;
        assert!(
            v1(write).unwrap().starts_with("devices.deny a; devices.allow b *:* wm; devices.allow c *:* wm;")
        );
        let hole = r#"[{"allow":true,"type":"c","major":10,"access":"rw"},{"allow":false,"type":"c","major":10,"minor":1,"access":"r"}]"#;
        assert_eq!(
            v1(hole).unwrap_err().to_string(),
            "/linux/resources/devices/1: cgroup v1 cannot take c 10:1 r out of c 10:* rw, which an earlier rule is about"
        );
    }

    #[test]
    fn rules_that_make_no_sense_are_errors_with_their_pointer() {
        for (rule, error) in [
            (r#"{"allow":true}"#, r#"/linux/resources/devices/0/access: "": must be of the letters r, w, m"#),
            (
                r#"{"allow":true,"access":"x"}"#,
                r#"/linux/resources/devices/0/access: "x": must be of the letters r, w, m"#,
            ),
            (
                r#"{"allow":true,"access":"r","major":-2}"#,
                "/linux/resources/devices/0/major: -2: must be -1 (any) or a device number",
            ),
            (
                r#"{"allow":true,"access":"r","minor":4294967296}"#,
                "/linux/resources/devices/0/minor: 4294967296: must be -1 (any) or a device number",
            ),
            (
                r#"{"allow":true,"access":"r","type":"p"}"#,
                r#"/linux/resources/devices/0/type: "p": must be a, b or c"#,
            ),
        ] {
            assert_eq!(Policy::new(&config(&format!("[{rule}]"))).unwrap_err().to_string(), error);
        }
    }
}
