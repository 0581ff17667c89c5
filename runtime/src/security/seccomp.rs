//! From an OCI seccomp profile to a BPF program.
//!
//! [`compile`] is pure; `sys::seccomp::load` loads what it returns. The decision of a program, in order:
//!
//! 1. An architecture that is neither the native one nor listed in the profile: the process is killed (libseccomp kills
//!    the thread only). The same for an x32 number on x86-64 where x32 is not listed (row E10), except number -1, which a
//!    tracer sets to skip a call: that one gets the default action.
//! 2. A number above the newest call that the profile names for that architecture: `ENOSYS`, since a profile cannot
//!    mean to deny what its author had never heard of, and a libc must see that the call is missing to fall back to an
//!    older one (row E11). Not where the default action lets calls through (ALLOW, LOG, TRACE) or where the profile names
//!    no call of that architecture. A rule with the default action decides nothing but counts as naming its calls.
//! 3. The first rule for the call that has no conditions, wherever it stands among those with conditions.
//! 4. The first rule whose conditions all hold. The order matters only among rules of one call with different actions,
//!    and is libseccomp's (see `order`), not that of the profile.
//! 5. The default action.
//!
//! Two conditions of a rule on the same argument make each condition of it a rule of its own (as in runc). On 32-bit
//! ABIs the low 32 bits of arguments are compared. 32-bit x86 also makes socket and System V IPC calls by socketcall(2)
//! and ipc(2): a rule for such a call holds there too, by the number of the call in argument 0, in whose place the
//! rule's own condition on argument 0 goes (libseccomp; the real arguments are in memory, where no filter looks).
//!
//! Why not seccompiler's own compiler: it has one match action and one architecture for each filter, and no
//! notification. Its BPF instruction type is used.

mod code;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use seccompiler::sock_filter;

use self::code::{ARCH_OFFSET, Code, JUMP_EQUAL, NUMBER_OFFSET, Target};
use crate::error::{Error, Result};
use crate::security::syscalls::{self, Abi, Syscall};

/// The longest program that the kernel takes, in instructions: `BPF_MAXINSNS` of linux/bpf_common.h.
pub const MAX_INSTRUCTIONS: usize = 4096;

const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
/// `MAX_ERRNO` of linux/err.h: the kernel would lower a greater errno to it (seccomp(2)).
const MAX_ERRNO: u32 = 4095;
/// `SECCOMP_RET_DATA` of linux/seccomp.h, what a tracer can be told.
const MAX_TRACE: u32 = 0xFFFF;
/// How many arguments a system call has.
const ARGUMENTS: u8 = 6;

/// A compiled profile, ready for `sys::seccomp::load`.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The BPF program, at most [`MAX_INSTRUCTIONS`] long.
    pub program: Vec<sock_filter>,
    /// Flags for seccomp(2) with `SECCOMP_SET_MODE_FILTER`.
    pub flags: libc::c_ulong,
    /// Whether a rule notifies: loading the filter then gives a listener, which goes to the profile's `listenerPath`.
    pub uses_notify: bool,
    /// Names of calls that no architecture known here has: their rules are ignored, which is worth a warning.
    pub unknown_names: Vec<String>,
}

/// What a filter sees as one architecture (`AUDIT_ARCH_…`, which libseccomp's tokens equal but for x32), and the ABIs in
/// it by their first number.
struct Architecture {
    audit: u32,
    abis: &'static [(Arch, Abi)],
}

const X86_64: Architecture = Architecture {
    audit: Arch::ScmpArchX86_64 as u32,
    abis: &[(Arch::ScmpArchX86_64, Abi::X86_64), (Arch::ScmpArchX32, Abi::X32)],
};
const X86: Architecture =
    Architecture { audit: Arch::ScmpArchX86 as u32, abis: &[(Arch::ScmpArchX86, Abi::X86)] };
const AARCH64: Architecture =
    Architecture { audit: Arch::ScmpArchAarch64 as u32, abis: &[(Arch::ScmpArchAarch64, Abi::Aarch64)] };
const ARM: Architecture =
    Architecture { audit: Arch::ScmpArchArm as u32, abis: &[(Arch::ScmpArchArm, Abi::Arm)] };
const RISCV64: Architecture =
    Architecture { audit: Arch::ScmpArchRiscv64 as u32, abis: &[(Arch::ScmpArchRiscv64, Abi::Riscv64)] };

/// A kind of machine: its native architecture, and all that its kernel may report, the native one first. Other
/// architectures in a profile are accepted and need no code, since no filter on such a machine ever sees them.
#[derive(Clone, Copy)]
pub struct Machine {
    native: Arch,
    architectures: &'static [Architecture],
}

/// x86-64 kernels, which also run 32-bit and x32 programs.
pub const MACHINE_X86_64: Machine = Machine { native: Arch::ScmpArchX86_64, architectures: &[X86_64, X86] };
/// aarch64 kernels, which also run 32-bit programs.
pub const MACHINE_AARCH64: Machine =
    Machine { native: Arch::ScmpArchAarch64, architectures: &[AARCH64, ARM] };
/// riscv64 kernels.
pub const MACHINE_RISCV64: Machine = Machine { native: Arch::ScmpArchRiscv64, architectures: &[RISCV64] };

#[cfg(target_arch = "x86_64")]
const THIS_MACHINE: Machine = MACHINE_X86_64;
#[cfg(target_arch = "aarch64")]
const THIS_MACHINE: Machine = MACHINE_AARCH64;
#[cfg(target_arch = "riscv64")]
const THIS_MACHINE: Machine = MACHINE_RISCV64;
#[cfg(not(target_endian = "little"))]
compile_error!("the halves of 64-bit arguments are taken to lie in little-endian order");

/// Whether `profile` decides nothing: no filter is needed then.
pub fn allows_all(profile: &LinuxSeccomp) -> bool {
    profile.default_action() == LinuxSeccompAction::ScmpActAllow
        && profile.syscalls().as_ref().is_none_or(Vec::is_empty)
}

/// Compiles `profile` for the kind of machine that this program is built for.
///
/// # Errors
/// A value that is not allowed, by its JSON pointer in config.json; rules that contradict each other; a program longer
/// than the kernel takes.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    compile_for(profile, THIS_MACHINE)
}

/// [`compile`] for any kind of machine.
///
/// # Errors
/// Those of [`compile`].
pub fn compile_for(profile: &LinuxSeccomp, machine: Machine) -> Result<Filter> {
    let uses_notify = check_notify(profile)?;
    let plan = Plan::new(profile, machine)?;
    let mut code = Code::default();
    let mut sections = Vec::with_capacity(machine.architectures.len());
    // A program is made from its end: jumps go forward only, so that their targets are there when they are made.
    for architecture in machine.architectures.iter().rev() {
        if architecture.abis.iter().any(|(arch, _)| plan.selected.contains(arch)) {
            sections.push((architecture.audit, plan.section(architecture, &mut code)?));
        }
    }
    let mut dispatch = Target::Return(KILL_PROCESS);
    for (audit, section) in sections {
        dispatch = code.jump(JUMP_EQUAL, audit, section, dispatch);
    }
    code.load(ARCH_OFFSET);
    Ok(Filter {
        program: code.finish()?,
        flags: flags(profile, uses_notify),
        uses_notify,
        unknown_names: plan.unknown_names,
    })
}

fn invalid(pointer: &str, value: impl std::fmt::Display, allowed: impl std::fmt::Display) -> Error {
    Error::new(format!("/linux/seccomp/{pointer}: {value}: {allowed}"))
}

/// The return value of a filter for `action`; `errno` is its errno, or what a tracer is told. Without one it is EPERM
/// (config-linux.md, Seccomp).
fn return_value(action: LinuxSeccompAction, errno: Option<u32>, pointer: impl Fn() -> String) -> Result<u32> {
    let most = match action {
        LinuxSeccompAction::ScmpActErrno => MAX_ERRNO,
        LinuxSeccompAction::ScmpActTrace => MAX_TRACE,
        _ => match errno {
            None => return Ok(action.as_u32(None)),
            Some(errno) => {
                return Err(invalid(
                    &pointer(),
                    errno,
                    format!("must not be set: {action} returns no errno"),
                ));
            }
        },
    };
    match errno {
        Some(errno) if errno > most => Err(invalid(&pointer(), errno, format!("must be at most {most}"))),
        _ => Ok(action.as_u32(errno)),
    }
}

/// Whether a rule notifies, and what is not allowed about that. The init process itself runs under the filter while it
/// hands the listener over: a notified write(2), or a notification for everything, would wait for a listener that nobody
/// has got yet (runc has the same two rules).
fn check_notify(profile: &LinuxSeccomp) -> Result<bool> {
    const NOTIFY: LinuxSeccompAction = LinuxSeccompAction::ScmpActNotify;
    if profile.listener_metadata().is_some() && profile.listener_path().is_none() {
        let allowed = "must not be set without listenerPath";
        return Err(invalid("listenerMetadata", "set", allowed));
    }
    if profile.default_action() == NOTIFY {
        return Err(invalid("defaultAction", NOTIFY, "must not be the default action"));
    }
    let mut uses_notify = false;
    for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
        if rule.action() == NOTIFY {
            uses_notify = true;
            if rule.names().iter().any(|name| name == "write") {
                let pointer = format!("syscalls/{index}/action");
                return Err(invalid(
                    &pointer,
                    NOTIFY,
                    "SCMP_ACT_NOTIFY cannot be used for the write syscall",
                ));
            }
        }
    }
    if uses_notify && profile.listener_path().is_none() {
        return Err(invalid("listenerPath", "missing", format!("must be set where {NOTIFY} is used")));
    }
    Ok(uses_notify)
}

/// The flags for seccomp(2): those of the profile and what a listener needs. `WAIT_KILLABLE_RECV` says how to wait for a
/// listener, and the kernel refuses it without one: without a rule that notifies there is nothing that it could do.
fn flags(profile: &LinuxSeccomp, uses_notify: bool) -> libc::c_ulong {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // A listener and a failed TSYNC are both told by a positive result: the kernel wants them told apart.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync if uses_notify => {
                libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if uses_notify => {
                libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        };
    }
    if uses_notify { flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { flags }
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    /// 0 to 5.
    argument: u8,
    operator: LinuxSeccompOperator,
    /// The bits that are compared: all, but for `MASKED_EQ`.
    mask: u64,
    value: u64,
}

impl Condition {
    fn new(arg: &LinuxSeccompArg, pointer: impl Fn() -> String) -> Result<Self> {
        let argument = u8::try_from(arg.index()).ok().filter(|index| *index < ARGUMENTS);
        let argument = argument.ok_or_else(|| invalid(&pointer(), arg.index(), "must be 0 to 5"))?;
        let operator = arg.op();
        let (mask, value) = match operator {
            // libseccomp's order: the mask, then the value, of which only the bits in the mask count.
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (arg.value(), arg.value_two().unwrap_or(0) & arg.value())
            }
            _ => (u64::MAX, arg.value()),
        };
        Ok(Self { argument, operator, mask, value })
    }

    /// The same condition on the low 32 bits alone.
    fn narrow(self) -> Self {
        let low = u64::from(u32::MAX);
        Self { mask: self.mask & low, value: self.value & low, ..self }
    }
}

/// The low and the high half.
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// An entry of the profile's `syscalls`.
struct Rule {
    action: u32,
    /// The rule matches where all conditions of one of these hold, sorted by argument; none: it always matches.
    alternatives: Vec<Vec<Condition>>,
}

/// The conditions of a rule: two on the same argument make each of them an alternative of its own.
fn alternatives(index: usize, args: Option<&Vec<LinuxSeccompArg>>) -> Result<Vec<Vec<Condition>>> {
    let args = args.map_or(&[][..], Vec::as_slice);
    let mut conditions = Vec::with_capacity(args.len());
    for (at, arg) in args.iter().enumerate() {
        conditions.push(Condition::new(arg, || format!("syscalls/{index}/args/{at}/index"))?);
    }
    if conditions.is_empty() {
        return Ok(Vec::new());
    }
    let mut sorted = conditions.clone();
    sorted.sort_by_key(|condition| condition.argument);
    if sorted.windows(2).any(|pair| pair[0].argument == pair[1].argument) {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(vec![sorted])
}

/// A system call as a rule names it.
struct Named<'a> {
    rule: usize,
    name: &'a str,
    syscall: Syscall,
}

/// A rule that applies to a system call number.
struct Use {
    number: u32,
    rule: usize,
    /// The call number of socketcall(2) or ipc(2), which stands in argument 0.
    multiplexed: Option<u32>,
}

/// Conditions that must all hold for an action.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Match {
    rule: usize,
    action: u32,
    conditions: Vec<Condition>,
}

/// What is to be done about a number.
enum Decision {
    Always(u32),
    /// The first match, else the default action.
    First(Vec<Match>),
}

/// The profile with its names resolved.
struct Plan<'a> {
    default: u32,
    selected: Vec<Arch>,
    rules: Vec<Rule>,
    named: Vec<Named<'a>>,
    unknown_names: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(profile: &'a LinuxSeccomp, machine: Machine) -> Result<Self> {
        let mut selected = vec![machine.native];
        selected.extend(profile.architectures().iter().flatten());
        let syscalls = profile.syscalls().as_deref().unwrap_or(&[]);
        let errno = profile.default_errno_ret();
        let mut plan = Self {
            default: return_value(profile.default_action(), errno, || "defaultErrnoRet".to_owned())?,
            selected,
            rules: Vec::with_capacity(syscalls.len()),
            named: Vec::with_capacity(syscalls.iter().map(|rule| rule.names().len()).sum()),
            unknown_names: Vec::new(),
        };
        for (index, rule) in syscalls.iter().enumerate() {
            let pointer = || format!("syscalls/{index}/errnoRet");
            let action = return_value(rule.action(), rule.errno_ret(), pointer)?;
            plan.rules.push(Rule { action, alternatives: alternatives(index, rule.args().as_ref())? });
            plan.resolve(index, rule.names())?;
        }
        Ok(plan)
    }

    fn resolve(&mut self, rule: usize, names: &'a [String]) -> Result<()> {
        if names.is_empty() {
            return Err(invalid(&format!("syscalls/{rule}/names"), "[]", "must contain at least one name"));
        }
        for (at, name) in names.iter().enumerate() {
            match syscalls::find(name) {
                Some(syscall) => self.named.push(Named { rule, name, syscall }),
                None if name.is_empty() => {
                    let pointer = format!("syscalls/{rule}/names/{at}");
                    return Err(invalid(&pointer, "\"\"", "must be the name of a system call"));
                }
                None => self.unknown_names.push(name.clone()),
            }
        }
        Ok(())
    }

    /// The rules for the numbers of `abi`, sorted by number and then as in the profile, and the newest number that the
    /// profile names. A rule with the default action decides nothing and is left out.
    fn uses(&self, abi: Abi) -> (Vec<Use>, Option<u32>) {
        let mut uses = Vec::with_capacity(self.named.len());
        let mut newest = None;
        for named in &self.named {
            let direct = named.syscall.number(abi).map(|number| (number, None));
            let multiplexed = (abi == Abi::X86).then(|| syscalls::x86_multiplexed(named.name)).flatten();
            let multiplexed = multiplexed.map(|(number, call)| (number, Some(call)));
            for (number, multiplexed) in direct.into_iter().chain(multiplexed) {
                if !abi.is_private(number) {
                    newest = newest.max(Some(number));
                }
                if self.rules[named.rule].action != self.default {
                    uses.push(Use { number, rule: named.rule, multiplexed });
                }
            }
        }
        uses.sort_unstable_by_key(|one| (one.number, one.rule, one.multiplexed));
        (uses, newest)
    }

    /// What to do about the number that all of `uses` are for.
    fn decide(&self, uses: &[Use], wide: bool) -> Result<Decision> {
        let mut matches: Vec<Match> = Vec::new();
        let mut always = None;
        'rules: for one in uses {
            let rule = &self.rules[one.rule];
            let no_conditions = [Vec::new()];
            let alternatives =
                if rule.alternatives.is_empty() { &no_conditions[..] } else { &rule.alternatives };
            for conditions in alternatives {
                let conditions = lower(conditions, one.multiplexed, wide);
                if conditions.is_empty() {
                    always = Some(rule.action);
                    break 'rules;
                }
                matches.push(Match { rule: one.rule, action: rule.action, conditions });
            }
        }
        remove_repetitions(&mut matches);
        // Each of them is an instruction at the least; to put them in order takes the square of their number.
        if matches.len() > MAX_INSTRUCTIONS {
            return Err(code::too_long(matches.len()));
        }
        if matches.iter().any(|other| other.action != matches[0].action) {
            order(&mut matches, wide)?;
        }
        Ok(always.map_or(Decision::First(matches), Decision::Always))
    }

    /// Emits the code for one architecture and returns its start.
    fn section(&self, architecture: &Architecture, code: &mut Code) -> Result<Target> {
        let mut ranges = Ranges::default();
        for (arch, abi) in architecture.abis {
            if self.selected.contains(arch) {
                self.abi_ranges(*abi, &mut ranges, code)?;
            } else {
                ranges.start(abi.first_number(), Target::Return(KILL_PROCESS));
                if *abi == Abi::X32 {
                    ranges.start(u32::MAX, Target::Return(self.default));
                }
            }
        }
        let tree = code.tree(&ranges.starts);
        code.fall_into(tree);
        Ok(code.load(NUMBER_OFFSET))
    }

    /// Appends the numbers of `abi` to `ranges`, and emits the code of those that depend on arguments.
    fn abi_ranges(&self, abi: Abi, ranges: &mut Ranges, code: &mut Code) -> Result<()> {
        let (uses, newest) = self.uses(abi);
        let default = Target::Return(self.default);
        let action = self.default & libc::SECCOMP_RET_ACTION_FULL;
        let lets_through =
            [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE].contains(&action);
        let unheard_of = if lets_through { default } else { Target::Return(ENOSYS) };
        // From this number on, numbers without a rule are unheard of.
        let end = newest.map_or(u32::MAX, |newest| newest + 1);
        let gap = |ranges: &mut Ranges, from: u32, to: u32| {
            if from < to.min(end) {
                ranges.start(from, default);
            }
            if end < to {
                ranges.start(from.max(end), unheard_of);
            }
        };
        let mut emitted: Vec<(Vec<Match>, Target)> = Vec::new();
        let mut next = abi.first_number();
        for group in uses.chunk_by(|one, other| one.number == other.number) {
            let target = match self.decide(group, abi.is_64_bit())? {
                Decision::Always(action) => Target::Return(action),
                Decision::First(matches) => match emitted.iter().find(|(same, _)| *same == matches) {
                    Some((_, target)) => *target,
                    None => {
                        let target = code.matches(&matches, default, abi.is_64_bit());
                        emitted.push((matches, target));
                        target
                    }
                },
            };
            gap(ranges, next, group[0].number);
            ranges.start(group[0].number, target);
            next = group[0].number + 1;
        }
        gap(ranges, next, u32::MAX);
        Ok(())
    }
}

/// `conditions` as an ABI compares them: without those that always hold, and with the multiplexer's call number in
/// place of a condition on argument 0.
fn lower(conditions: &[Condition], multiplexed: Option<u32>, wide: bool) -> Vec<Condition> {
    let call = multiplexed.map(|call| Condition {
        argument: 0,
        operator: LinuxSeccompOperator::ScmpCmpEq,
        mask: u64::MAX,
        value: u64::from(call),
    });
    let own = conditions.iter().filter(|condition| call.is_none() || condition.argument != 0);
    call.iter()
        .chain(own)
        .map(|condition| if wide { *condition } else { condition.narrow() })
        .filter(|condition| condition.mask != 0)
        .collect()
}

/// Profiles that programs write say the same many times, and the kernel's limit is on what is left of it (as in libseccomp).
fn remove_repetitions(matches: &mut Vec<Match>) {
    let mut seen = BTreeSet::new();
    let key = |one: &Condition| (one.argument, one.operator as u8, one.mask, one.value);
    matches.retain(|one| seen.insert((one.action, one.conditions.iter().map(key).collect::<Vec<_>>())));
}

/// Where a condition stands among others on the same level: see `order`.
type Rank = (Reverse<u8>, u8, u32, usize, u32, usize);

/// Puts matches with different actions into the order in which libseccomp's program tries them: by the first condition in
/// which two of them differ,
/// * one on a higher argument first;
/// * on the same argument `EQ`, `NE` and `MASKED_EQ`, then `LT` and `LE`, then `GT` and `GE`;
/// * of these the greater value first (with `LT` and `LE` the smaller one), by the high half and then by the low half;
///   halves that are equal under different masks stay in the order of the profile;
/// * and where one has no conditions left, that one first.
///
/// Libseccomp refuses two rules with the same conditions and different actions, and a rule that covers an earlier, longer
/// one of another action: so does this. Where rules with different actions overlap in more tangled ways its decision
/// depends on how its tree shares nodes, and it loses or widens rules; this keeps to the order above.
fn order(matches: &mut [Match], wide: bool) -> Result<()> {
    let ranks: Vec<Vec<Rank>> = matches.iter().map(|one| ranks(one, matches, wide)).collect();
    let mut sorted: Vec<usize> = (0..matches.len()).collect();
    sorted.sort_by(|a, b| ranks[*a].cmp(&ranks[*b]));
    for (at, &first) in sorted.iter().enumerate() {
        let prefix = &matches[first].conditions;
        let covered = sorted[at + 1..].iter().take_while(|one| matches[**one].conditions.starts_with(prefix));
        for &second in covered {
            let (a, b) = (&matches[first], &matches[second]);
            if a.action != b.action && (a.conditions == b.conditions || second < first) {
                let pointer = format!("syscalls/{}", a.rule.max(b.rule));
                let earlier = a.rule.min(b.rule);
                let what = format!("contradicts /linux/seccomp/syscalls/{earlier}, of another action");
                return Err(invalid(&pointer, "args", what));
            }
        }
    }
    let mut ordered: Vec<Match> = sorted.iter().map(|index| matches[*index].clone()).collect();
    matches.swap_with_slice(&mut ordered);
    Ok(())
}

fn ranks(one: &Match, all: &[Match], wide: bool) -> Vec<Rank> {
    use LinuxSeccompOperator::{ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq};
    // Libseccomp has one node for equal halves under equal masks, placed where the first such rule put it.
    let high_node = |condition: &Condition| {
        let (value, mask) = (halves(condition.value).1, halves(condition.mask).1);
        (condition.argument, condition.operator == ScmpCmpMaskedEq, value, mask)
    };
    let first = |test: &dyn Fn(&Match) -> bool| all.iter().position(test).unwrap_or(all.len());
    let mut ranks = Vec::with_capacity(one.conditions.len());
    for (at, condition) in one.conditions.iter().enumerate() {
        let (low, high) = halves(condition.value);
        let before = &one.conditions[..at];
        let upto = &one.conditions[..=at];
        let high_group = first(&|other| {
            let there = other.conditions.get(at);
            other.conditions.starts_with(before)
                && there.is_some_and(|there| high_node(there) == high_node(condition))
        });
        let low_group = first(&|other| other.conditions.starts_with(upto));
        let class = match condition.operator {
            ScmpCmpLt | ScmpCmpLe => 1,
            ScmpCmpGt | ScmpCmpGe => 2,
            _ => 0,
        };
        let (low, high) = if class == 1 { (low, high) } else { (!low, !high) };
        let high_group = if wide && class == 0 { high_group } else { 0 };
        ranks.push((Reverse(condition.argument), class, high, high_group, low, low_group));
    }
    ranks
}

/// Where numbers begin to go to another target; each goes on to the next one.
#[derive(Default)]
struct Ranges {
    starts: Vec<(u32, Target)>,
}

impl Ranges {
    /// From `number` on, `target`.
    fn start(&mut self, number: u32, target: Target) {
        if self.starts.last().is_none_or(|(_, last)| *last != target) {
            self.starts.push((number, target));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(profile: &Value) -> LinuxSeccomp {
        serde_json::from_value(profile.clone()).unwrap()
    }

    fn error_of(profile: &Value) -> String {
        compile(&parsed(profile)).unwrap_err().to_string()
    }

    /// A profile with one rule.
    fn with_rule(rule: &Value) -> Value {
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]})
    }

    /// config.md, Valid values: each value that is not allowed is an error by its JSON pointer.
    #[test]
    fn e13_invalid_values_are_errors() {
        let rule = |key: &str, value: Value| {
            let mut rule = json!({"names": ["getpid"], "action": "SCMP_ACT_ALLOW"});
            rule[key] = value;
            error_of(&with_rule(&rule))
        };
        let arg = json!([{"index": 1, "op": "SCMP_CMP_EQ", "value": 0}, {"index": 6, "op": "SCMP_CMP_EQ", "value": 0}]);
        assert_eq!(rule("args", arg), "/linux/seccomp/syscalls/0/args/1/index: 6: must be 0 to 5");
        assert_eq!(
            rule("names", json!([])),
            "/linux/seccomp/syscalls/0/names: []: must contain at least one name"
        );
        assert_eq!(
            rule("names", json!(["read", ""])),
            "/linux/seccomp/syscalls/0/names/1: \"\": must be the name of a system call"
        );
        // config-linux.md: "When the action doesn't support an errno, the runtime MUST print and error and fail."
        assert_eq!(
            rule("errnoRet", json!(1)),
            "/linux/seccomp/syscalls/0/errnoRet: 1: must not be set: SCMP_ACT_ALLOW returns no errno"
        );
        let big = json!({"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096});
        assert_eq!(
            error_of(&with_rule(&big)),
            "/linux/seccomp/syscalls/0/errnoRet: 4096: must be at most 4095"
        );
        let big = json!({"names": ["getpid"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536});
        assert_eq!(
            error_of(&with_rule(&big)),
            "/linux/seccomp/syscalls/0/errnoRet: 65536: must be at most 65535"
        );
        assert_eq!(
            error_of(&json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1})),
            "/linux/seccomp/defaultErrnoRet: 1: must not be set: SCMP_ACT_KILL returns no errno"
        );
    }

    /// config-linux.md: every architecture of the spec is accepted, whether this machine could run it or not.
    #[test]
    fn every_architecture_of_the_spec_is_accepted() {
        let archs = [
            "X86",
            "X86_64",
            "X32",
            "ARM",
            "AARCH64",
            "MIPS",
            "MIPS64",
            "MIPS64N32",
            "MIPSEL",
            "MIPSEL64",
            "MIPSEL64N32",
            "PPC",
            "PPC64",
            "PPC64LE",
            "S390",
            "S390X",
            "PARISC",
            "PARISC64",
            "RISCV64",
            "LOONGARCH64",
        ]
        .map(|name| format!("SCMP_ARCH_{name}"));
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": archs});
        for machine in [MACHINE_X86_64, MACHINE_AARCH64, MACHINE_RISCV64] {
            assert!(compile_for(&parsed(&profile), machine).is_ok());
        }
    }

    /// security.md E13: each flag becomes that of seccomp(2), none is there without being asked for, and what a listener
    /// needs comes with a rule that notifies.
    #[test]
    fn e13_flags() {
        let flags = |names: &[&str], action: &str| {
            let names: Vec<String> = names.iter().map(|name| format!("SECCOMP_FILTER_FLAG_{name}")).collect();
            let mut profile = with_rule(&json!({"names": ["getpid"], "action": action}));
            profile["flags"] = json!(names);
            profile["listenerPath"] = json!("/run/agent.sock");
            compile(&parsed(&profile)).unwrap().flags
        };
        let all = ["LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV"];
        assert_eq!(flags(&[], "SCMP_ACT_ALLOW"), 0);
        assert_eq!(flags(&["TSYNC"], "SCMP_ACT_ALLOW"), 1);
        assert_eq!(flags(&["LOG"], "SCMP_ACT_ALLOW"), 2);
        assert_eq!(flags(&["SPEC_ALLOW"], "SCMP_ACT_ALLOW"), 4);
        assert_eq!(flags(&all, "SCMP_ACT_ALLOW"), 7);
        assert_eq!(flags(&[], "SCMP_ACT_NOTIFY"), 8);
        assert_eq!(flags(&all, "SCMP_ACT_NOTIFY"), 63);
    }

    /// runc's rules and config-linux.md's about notifications.
    #[test]
    fn c15_notify_restrictions() {
        let notify = |name: &str| {
            let mut profile = with_rule(&json!({"names": ["read", name], "action": "SCMP_ACT_NOTIFY"}));
            profile["listenerPath"] = json!("/run/agent.sock");
            profile
        };
        assert!(compile(&parsed(&notify("getpid"))).unwrap().uses_notify);
        assert_eq!(
            error_of(&notify("write")),
            "/linux/seccomp/syscalls/0/action: SCMP_ACT_NOTIFY: SCMP_ACT_NOTIFY cannot be used for the write syscall"
        );
        assert_eq!(
            error_of(&json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
            "/linux/seccomp/defaultAction: SCMP_ACT_NOTIFY: must not be the default action"
        );
        let mut profile = notify("getpid");
        profile["listenerPath"] = Value::Null;
        assert_eq!(
            error_of(&profile),
            "/linux/seccomp/listenerPath: missing: must be set where SCMP_ACT_NOTIFY is used"
        );
        let metadata = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"});
        assert_eq!(
            error_of(&metadata),
            "/linux/seccomp/listenerMetadata: set: must not be set without listenerPath"
        );
    }

    /// runc: a name that no architecture has is ignored with a warning.
    #[test]
    fn unknown_names_are_told() {
        let rule =
            json!({"names": ["getpid", "no_such_call", "s390_pci_mmio_read"], "action": "SCMP_ACT_ALLOW"});
        let filter = compile(&parsed(&with_rule(&rule))).unwrap();
        assert_eq!(filter.unknown_names, ["no_such_call", "s390_pci_mmio_read"]);
    }

    /// The kernel's limit is on what a profile says, not on how often: 5000 rules of which 2000 differ are a program as good as those,
    /// and one that is too long is an error that says so.
    #[test]
    fn repetitions_take_no_instructions() {
        let length = |rules: u32, different: u32| {
            let rule = |number: u32| {
                let arg = json!({"index": 0, "op": "SCMP_CMP_EQ", "value": number % different});
                json!({"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [arg]})
            };
            let rules: Vec<Value> = (0..rules).map(rule).collect();
            compile(&parsed(&json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})))
                .map(|filter| filter.program.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(length(5000, 2000), length(2000, 2000));
        let refused = length(5000, 5000).unwrap_err();
        assert!(refused.ends_with("BPF instructions, and the kernel takes 4096"), "{refused}");
    }

    /// security.md E12, G5: more rules for a call than any program can hold are refused before they are compared with each other.
    #[test]
    fn e12_more_rules_than_instructions() {
        let rule = |value: usize| {
            let action = if value.is_multiple_of(2) { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_LOG" };
            let args = json!([{"index": 0, "op": "SCMP_CMP_EQ", "value": value}]);
            json!({"names": ["getpid"], "action": action, "args": args})
        };
        let rules: Vec<Value> = (0..5000).map(rule).collect();
        let profile = parsed(&json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
        let error = compile(&profile).unwrap_err().to_string();
        assert_eq!(error, "/linux/seccomp: needs 5000 BPF instructions, and the kernel takes 4096");
    }

    /// security.md E12: rules that contradict each other are refused as libseccomp refuses them (EEXIST), in either order;
    /// where the shorter one comes first it decides, and a rule without conditions always does.
    #[test]
    fn e12_contradicting_rules() {
        let rule = |action: &str, arguments: &[u64]| {
            let args: Vec<Value> = arguments
                .iter()
                .enumerate()
                .map(|(index, value)| json!({"index": index, "op": "SCMP_CMP_EQ", "value": value}))
                .collect();
            json!({"names": ["getpid"], "action": action, "args": args})
        };
        let compile = |rules: [Value; 2]| {
            compile(&parsed(&json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})))
                .map_err(|error| error.to_string())
        };
        let (allow, log) = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG");
        let refused =
            "/linux/seccomp/syscalls/1: args: contradicts /linux/seccomp/syscalls/0, of another action";
        assert_eq!(compile([rule(allow, &[1]), rule(log, &[1])]).unwrap_err(), refused);
        assert_eq!(compile([rule(log, &[1]), rule(allow, &[1])]).unwrap_err(), refused);
        assert_eq!(compile([rule(log, &[1, 2]), rule(allow, &[1])]).unwrap_err(), refused);
        assert!(compile([rule(allow, &[1]), rule(log, &[1, 2])]).is_ok());
        assert!(compile([rule(allow, &[1]), rule(allow, &[1])]).is_ok());
        assert!(compile([rule(allow, &[1]), rule(log, &[])]).is_ok());
    }
}
