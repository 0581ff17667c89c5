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

    fn letters(self) -> String {
        let letters = [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')];
        letters.into_iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, letter)| letter).collect()
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
        let denies_all = !rule.allow() && text.contains('a');
        let access = Access::parse(if denies_all { "rwm" } else { text })
            .ok_or_else(|| wrong("access", &text, "must be of the letters r, w, m"))?;
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

    /// What the rules allow, as systemd's DeviceAllow has it: a device and its access. None where all is allowed to begin
    /// with. Rules of other forms allow more there than here; with `exact` they are an error.
    ///
    /// # Errors
    /// `exact`: the first rule that DeviceAllow cannot express.
    pub fn unit_rules(&self, exact: bool) -> Result<Option<Vec<(String, String)>>> {
        let inexact =
            |what: &str| Error::new(format!("{RESOURCES}/devices: systemd cannot keep {what} on cgroup v1"));
        if self.allow {
            let denies = exact && !self.exceptions(RESOURCES)?.is_empty();
            return if denies { Err(inexact("devices away where all are allowed")) } else { Ok(None) };
        }
        let allowed = match self.exceptions(RESOURCES) {
            Err(error) if exact => return Err(error),
            Err(_) => {
                self.rules.iter().filter(|rule| rule.allow).map(|rule| (rule.devices, rule.access)).collect()
            }
            Ok(list) => list,
        };
        let mut list: Vec<(String, Access)> = Vec::with_capacity(allowed.len());
        for (devices, access) in allowed {
            let kind = if devices.kind == Kind::Block { "block" } else { "char" };
            let device = match (devices.major, devices.minor) {
                (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                (Some(major), None) => format!("{kind}-{major}"),
                (None, Some(_)) if exact => {
                    return Err(inexact("a rule for a minor number of any major number"));
                }
                (None, _) => format!("{kind}-*"),
            };
            match list.iter_mut().find(|(known, _)| *known == device) {
                Some((_, known)) => known.0 |= access.0,
                None => list.push((device, access)),
            }
        }
        Ok(Some(list.into_iter().map(|(device, access)| (device, access.letters())).collect()))
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
    /// From the last rule to the first, so that the last that matches decides. What the kernel's verifier takes for a program
    /// grows with the states that it has to tell apart, and was a tenth of all of `run`: rules about any access, as nearly all
    /// are, are a comparison of one number each, which leads out of the program.
    pub fn program(&self) -> Vec<Insn> {
        let mut program = register::load();
        for kind in [Kind::Char, Kind::Block] {
            if self.rules.iter().any(|rule| rule.devices.kind == kind && rule.comparison().is_some()) {
                program.extend(register::load_device(kind));
            }
        }
        let rules: Vec<Rule> = self.rules.iter().rev().copied().collect();
        let alike = |one: &Rule, next: &Rule| {
            one.allow == next.allow && one.comparison().is_some() && next.comparison().is_some()
        };
        for run in rules.chunk_by(alike).flat_map(|run| run.chunks(Rule::TOGETHER)) {
            program.extend(Rule::decide_together(run).unwrap_or_else(|| run[0].decide()));
        }
        program.extend(Insn::return_value(self.allow.into()));
        program
    }
}

/// What the registers of the program hold.
mod register {
    use super::{Insn, Kind, op};

    pub const KIND: u8 = 2;
    /// The bits of the access that are still undecided: one rule may decide reading and another one writing.
    pub const UNDECIDED: u8 = 3;
    pub const MAJOR: u8 = 4;
    pub const MINOR: u8 = 5;
    const SCRATCH: u8 = 1;
    /// A minor number has 20 bits, and a major number 12 (`linux/kdev_t.h`).
    pub const MINOR_BITS: u8 = 20;
    /// Above both numbers.
    const MARK: i32 = 60;

    /// The register with the numbers of a device of this kind, as one: major, minor. One of the other kind has a mark on it.
    pub fn numbers(kind: Kind) -> u8 {
        if kind == Kind::Char { 6 } else { 7 }
    }

    /// The same with the major number alone.
    pub fn major(kind: Kind) -> u8 {
        if kind == Kind::Char { 8 } else { 9 }
    }

    /// `struct bpf_cgroup_dev_ctx`: access << 16 | kind, major, minor, 32 bits each; r1 points to it.
    pub fn load() -> Vec<Insn> {
        vec![
            Insn::load_u32(KIND, 1, 0),
            Insn::load_u32(MAJOR, 1, 4),
            Insn::load_u32(MINOR, 1, 8),
            Insn::copy(UNDECIDED, KIND),
            Insn::alu(op::AND, KIND, 0xffff),
            Insn::alu(op::SHIFT_RIGHT, UNDECIDED, 16),
        ]
    }

    pub fn load_device(kind: Kind) -> [Insn; 9] {
        let other = if kind == Kind::Char { Kind::Block } else { Kind::Char };
        [
            Insn::copy(numbers(kind), MAJOR),
            Insn::alu64(op::SHIFT_LEFT, numbers(kind), MINOR_BITS.into()),
            Insn::or(numbers(kind), MINOR),
            Insn::copy(SCRATCH, KIND),
            Insn::alu64(op::AND, SCRATCH, other as i32),
            Insn::alu64(op::SHIFT_LEFT, SCRATCH, MARK),
            Insn::or(numbers(kind), SCRATCH),
            Insn::copy(major(kind), numbers(kind)),
            Insn::alu64(op::SHIFT_RIGHT, major(kind), MINOR_BITS.into()),
        ]
    }
}

impl Rule {
    /// How many rules are decided together: a jump reaches 32767 instructions.
    const TOGETHER: usize = 1000;

    /// The register and the number that it is equal to for just the devices of this rule, where that decides all of the access.
    fn comparison(&self) -> Option<(u8, i32)> {
        const MINORS: u32 = 1 << register::MINOR_BITS;
        let Devices { kind, major, minor } = self.devices;
        match (major, minor) {
            _ if self.access != Access::ALL => None,
            (None, None) => Some((register::KIND, kind as i32)),
            (Some(major), None) => Some((register::major(kind), i32::try_from(major).ok()?)),
            (Some(major), Some(minor)) if minor < MINORS => {
                let number = u64::from(major) << register::MINOR_BITS | u64::from(minor);
                Some((register::numbers(kind), i32::try_from(number).ok()?))
            }
            _ => None,
        }
    }

    /// Rules with the same verdict about all of the access: a comparison each, that leads to the one return. None where one
    /// of them is not such a rule.
    fn decide_together(rules: &[Self]) -> Option<Vec<Insn>> {
        let mut program = Vec::with_capacity(rules.len() + 3);
        for (index, rule) in rules.iter().enumerate() {
            let (register, number) = rule.comparison()?;
            // Over the comparisons that follow, and the jump over the return.
            let over = i16::try_from(rules.len() - index).ok()?;
            program.push(Insn::jump64_if_equal(register, number, over));
        }
        program.push(Insn::jump(2));
        program.extend(Insn::return_value(rules[0].allow.into()));
        Some(program)
    }

    /// One rule of any form.
    fn decide(&self) -> Vec<Insn> {
        use register::{KIND, MAJOR, MINOR, UNDECIDED};
        let verdict = if self.allow {
            let left = i32::from(Access::ALL.without(self.access).0);
            vec![Insn::alu(op::AND, UNDECIDED, left), Insn::jump_unless_equal(UNDECIDED, 0, 2)]
        } else {
            vec![
                Insn::copy(1, UNDECIDED),
                Insn::alu(op::AND, 1, self.access.0.into()),
                Insn::jump_if_equal(1, 0, 2),
            ]
        };
        let mut conditions = vec![(KIND, self.devices.kind as u32)];
        conditions.extend(self.devices.major.map(|major| (MAJOR, major)));
        conditions.extend(self.devices.minor.map(|minor| (MINOR, minor)));
        // What is jumped over: the conditions that follow, the verdict, and its return.
        let mut ahead = conditions.len() + verdict.len() + 2;
        let mut program = Vec::with_capacity(ahead);
        for (register, number) in conditions {
            ahead -= 1;
            let over = i16::try_from(ahead).unwrap_or(i16::MAX);
            program.push(Insn::jump_unless_equal(register, number.cast_signed(), over));
        }
        program.extend(verdict);
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
    text.push_str(&access.letters());
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
            let majors = [0, 1, 2, 5, 8, 136, 2047, 2048, u32::MAX].into_iter();
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
            // The last two on both sides of what one comparison can hold.
            let numbers = [-1, 0, 1, 2, 5, 8, 2047, 2048];
            let mut number = || numbers[usize::try_from(self.below(8)).unwrap()];
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
