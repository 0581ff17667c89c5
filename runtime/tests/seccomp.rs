//! The seccomp compiler against a plain reading of the profile and against libseccomp (security.md E10 to E14).
//!
//! Three answers for each (architecture, number, arguments): what the BPF program that skeg makes returns, run by an
//! interpreter; what `plain_reading` says, slowly and by other means; and what libseccomp's program returns, where Debian's
//! libseccomp2 and python3 are installed.

#![allow(clippy::disallowed_methods, reason = "a test: runs python3")]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Op};
use seccompiler::sock_filter;
use serde_json::{Value, json};
use skeg::security::seccomp::{MACHINE_AARCH64, MACHINE_X86_64, MAX_INSTRUCTIONS, Machine, compile_for};
use skeg::security::syscalls::{self, Abi};

const X32_BIT: u32 = 0x4000_0000;
const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = ERRNO | 38;
const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
/// The newest call that Debian 12's libseccomp 2.5.4 knows: set_mempolicy_home_node.
const LIBSECCOMP_NEWEST: u32 = 450;

const DOCKER: &str = include_str!("../../spec-tests/data/docker-default-seccomp.json");

/// What a filter sees: `struct seccomp_data`, without the instruction pointer.
#[derive(Clone, Copy, Debug)]
struct Call {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[usize::try_from((offset - 16) / 8).unwrap()];
                let word = if offset.is_multiple_of(8) { arg & 0xffff_ffff } else { arg >> 32 };
                u32::try_from(word).unwrap()
            }
            _ => panic!("load from {offset}"),
        }
    }
}

/// Runs a classic BPF program as the kernel does: the return value and the number of instructions.
fn interpret(program: &[sock_filter], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    for step in 1..=program.len() {
        let one = &program[at];
        at += 1;
        let taken = match one.code {
            0x20 => {
                accumulator = call.word(one.k);
                continue;
            }
            0x54 => {
                accumulator &= one.k;
                continue;
            }
            0x05 => {
                at += usize::try_from(one.k).unwrap();
                continue;
            }
            0x06 => return (one.k, step),
            0x15 => accumulator == one.k,
            0x25 => accumulator > one.k,
            0x35 => accumulator >= one.k,
            0x45 => accumulator & one.k != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if taken { one.jt } else { one.jf });
    }
    panic!("the program does not return");
}

/// The ABIs of a kind of machine for the tests: OCI name, audit architecture, table, libseccomp's token.
struct TestMachine {
    machine: Machine,
    abis: &'static [(&'static str, u32, Abi, u32)],
}

const TEST_MACHINES: [TestMachine; 2] = [
    TestMachine {
        machine: MACHINE_X86_64,
        abis: &[
            ("SCMP_ARCH_X86_64", 0xc000_003e, Abi::X86_64, 0xc000_003e),
            ("SCMP_ARCH_X86", 0x4000_0003, Abi::X86, 0x4000_0003),
            ("SCMP_ARCH_X32", 0xc000_003e, Abi::X32, 0x4000_003e),
        ],
    },
    TestMachine {
        machine: MACHINE_AARCH64,
        abis: &[
            ("SCMP_ARCH_AARCH64", 0xc000_00b7, Abi::Aarch64, 0xc000_00b7),
            ("SCMP_ARCH_ARM", 0x4000_0028, Abi::Arm, 0x4000_0028),
        ],
    },
];

impl TestMachine {
    /// The selected ABI that a call is made by.
    fn abi(&self, profile: &Value, call: &Call) -> Option<Abi> {
        let (native, ..) = self.abis[0];
        let listed = |name| profile["architectures"].as_array().is_some_and(|all| all.contains(&json!(name)));
        let x32 = call.arch == 0xc000_003e && call.number & X32_BIT != 0;
        // Bits above the x32 bit do not make a number an x86-64 one.
        let x32 = x32 || call.arch == 0xc000_003e && call.number >= X32_BIT;
        self.abis
            .iter()
            .find(|(name, arch, abi, _)| {
                (*name == native || listed(*name)) && *arch == call.arch && (*abi == Abi::X32) == x32
            })
            .map(|(_, _, abi, _)| *abi)
    }
}

fn action_value(name: &str, errno: Option<u64>) -> u32 {
    let data = u32::try_from(errno.unwrap_or(1)).unwrap();
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => ERRNO | data,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ALLOW" => ALLOW,
        other => panic!("{other}"),
    }
}

/// Whether a condition of the profile holds, by the words of seccomp_rule_add(3).
fn holds(arg: &LinuxSeccompArg, call: &Call, wide: bool) -> bool {
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let (actual, value) = (cut(call.args[arg.index()]), cut(arg.value()));
    match arg.op() {
        Op::ScmpCmpNe => actual != value,
        Op::ScmpCmpLt => actual < value,
        Op::ScmpCmpLe => actual <= value,
        Op::ScmpCmpEq => actual == value,
        Op::ScmpCmpGe => actual >= value,
        Op::ScmpCmpGt => actual > value,
        Op::ScmpCmpMaskedEq => actual & value == cut(arg.value_two().unwrap_or(0)) & value,
    }
}

/// A rule of the profile for one number: its action, and its conditions joined by "and" or by "or".
struct PlainRule {
    action: u32,
    args: Vec<LinuxSeccompArg>,
    any: bool,
    /// 32-bit x86 by socketcall(2) or ipc(2): the value of argument 0.
    multiplexed: Option<u32>,
}

impl PlainRule {
    fn matches(&self, call: &Call, wide: bool) -> bool {
        let own: Vec<bool> = self
            .args
            .iter()
            .filter(|arg| self.multiplexed.is_none() || arg.index() != 0)
            .map(|arg| holds(arg, call, wide))
            .collect();
        let called = self.multiplexed.is_none_or(|value| call.args[0] & 0xffff_ffff == u64::from(value));
        // A condition on argument 0 that is one of several alternatives leaves nothing but the call's number.
        let without = self.any && own.len() < self.args.len();
        called && if self.any { without || own.contains(&true) } else { !own.contains(&false) }
    }

    /// Whether it holds for every argument there is.
    fn always(&self, wide: bool) -> bool {
        let empty = |arg: &LinuxSeccompArg| {
            let mask = if wide { arg.value() } else { arg.value() & 0xffff_ffff };
            arg.op() == Op::ScmpCmpMaskedEq && mask == 0
        };
        let mut args = self.args.iter();
        self.multiplexed.is_none() && if self.any { args.any(empty) } else { args.all(empty) }
    }
}

/// A profile as the plain reading and the reference need it.
struct Plain {
    value: Value,
    default: u32,
    /// By ABI and number, in the order of the profile.
    rules: HashMap<(u8, u32), Vec<PlainRule>>,
    /// The newest number by ABI.
    newest: HashMap<u8, u32>,
}

impl Plain {
    fn new(value: &Value, machine: &TestMachine) -> Self {
        let errno = value["defaultErrnoRet"].as_u64();
        let default = action_value(value["defaultAction"].as_str().unwrap(), errno);
        let mut plain = Self { value: value.clone(), default, rules: HashMap::new(), newest: HashMap::new() };
        for rule in value["syscalls"].as_array().unwrap() {
            let args: Vec<LinuxSeccompArg> =
                serde_json::from_value(rule.get("args").cloned().unwrap_or(json!([]))).unwrap();
            let indices: HashSet<usize> = args.iter().map(LinuxSeccompArg::index).collect();
            let any = indices.len() < args.len();
            let action = action_value(rule["action"].as_str().unwrap(), rule["errnoRet"].as_u64());
            for name in rule["names"].as_array().unwrap() {
                let name = name.as_str().unwrap();
                for (_, _, abi, _) in machine.abis {
                    let direct = syscalls::find(name).and_then(|call| call.number(*abi));
                    let muxed = syscalls::x86_multiplexed(name).filter(|_| *abi == Abi::X86);
                    let numbers = direct
                        .map(|number| (number, None))
                        .into_iter()
                        .chain(muxed.map(|(number, call)| (number, Some(call))));
                    for (number, multiplexed) in numbers {
                        plain.add(*abi, number, PlainRule { action, args: args.clone(), any, multiplexed });
                    }
                }
            }
        }
        plain
    }

    fn add(&mut self, abi: Abi, number: u32, rule: PlainRule) {
        if abi != Abi::Arm || number < 0xf0000 {
            let newest = self.newest.entry(abi as u8).or_insert(number);
            *newest = (*newest).max(number);
        }
        if rule.action != self.default {
            self.rules.entry((abi as u8, number)).or_default().push(rule);
        }
    }

    /// What a number gets that is newer than the profile.
    fn unheard_of(&self, abi: Abi, number: u32) -> Option<u32> {
        let lets_through = [0x7ff0_0000, 0x7ffc_0000, ALLOW].contains(&(self.default & 0xffff_0000));
        let newest = *self.newest.get(&(abi as u8))?;
        (number > newest && !lets_through && !self.rules.contains_key(&(abi as u8, number))).then_some(ENOSYS)
    }

    /// What the profile says about a call, where all of the rules with conditions that match agree on the action.
    fn reading(&self, machine: &TestMachine, call: &Call) -> u32 {
        let Some(abi) = machine.abi(&self.value, call) else {
            let tracer = call.arch == 0xc000_003e && call.number == u32::MAX;
            return if tracer { self.default } else { KILL_PROCESS };
        };
        let wide = matches!(abi, Abi::X86_64 | Abi::Aarch64);
        let rules = self.rules.get(&(abi as u8, call.number)).map_or(&[][..], Vec::as_slice);
        if let Some(first) = rules.iter().find(|rule| rule.always(wide)) {
            return first.action;
        }
        let mut actions: Vec<u32> =
            rules.iter().filter(|rule| rule.matches(call, wide)).map(|rule| rule.action).collect();
        actions.dedup();
        match actions[..] {
            [] => self.unheard_of(abi, call.number).unwrap_or(self.default),
            [action] => action,
            _ => panic!("the profile is not plain: {call:?}"),
        }
    }
}

/// xorshift64*: the same profiles and calls every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap()
    }
}

const VALUES: [u64; 12] =
    [0, 1, 5, 40, 0xff, 0x7e02_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 5, 5 << 32, u64::MAX - 1, u64::MAX];

/// How tangled the conditional rules of a random profile are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any conditions; all conditional rules of a call have one action.
    Plain,
    /// Only what libseccomp 2.5.4 compiles rightly. It does not, so that none of these are in here:
    /// * ranges (LT, LE, GT, GE) on one argument with different high halves: the second comparison finds the low half in
    ///   the accumulator;
    /// * rules with a range or NE that is not their last condition: rules share the nodes behind it, so that one rule's
    ///   conditions come to hold for the other, or a rule is dropped.
    Faithful,
    /// As `Faithful`, with different actions that conflict.
    Conflicting,
}

/// Whether Debian 12's libseccomp has a call.
fn libseccomp_knows(name: &str) -> bool {
    let call = syscalls::find(name).unwrap();
    let numbers =
        [Abi::X86_64, Abi::X86, Abi::Arm, Abi::Aarch64].into_iter().filter_map(|abi| call.number(abi));
    let mut newer = numbers.filter(|number| (LIBSECCOMP_NEWEST + 1..0xf0000).contains(number));
    // Newer calls that fill a gap in the table of x86-64.
    !["uprobe", "uretprobe"].contains(&name) && newer.next().is_none()
}

struct Generator {
    random: Random,
    names: Vec<&'static str>,
    /// By call: the action of its first conditional rule, their shape, and how many there are.
    conditional: HashMap<&'static str, (Value, u8, usize)>,
    /// Calls that 32-bit x86 multiplexes and that have a rule without conditions.
    multiplexed: HashSet<&'static str>,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            names: syscalls::names().filter(|name| libseccomp_knows(name)).collect(),
            conditional: HashMap::new(),
            multiplexed: HashSet::new(),
        }
    }

    fn action(&mut self, default: bool) -> Value {
        let all = [
            "SCMP_ACT_ERRNO",
            "SCMP_ACT_ALLOW",
            "SCMP_ACT_LOG",
            "SCMP_ACT_TRACE",
            "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL",
            "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_TRAP",
            "SCMP_ACT_NOTIFY",
        ];
        let name = all[self.random.below(all.len() - usize::from(default))];
        let mut action = json!({ "action": name });
        if ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(&name) && self.random.chance(70) {
            action["errnoRet"] = json!(self.random.of(&[0, 1, 13, 22, 38, 4094]));
        }
        action
    }

    fn profile(&mut self, kind: Kind) -> Value {
        self.conditional.clear();
        self.multiplexed.clear();
        let default = self.action(true);
        let archs: Vec<&str> = [
            "SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_AARCH64",
            "SCMP_ARCH_ARM",
            "SCMP_ARCH_MIPS",
        ]
        .into_iter()
        .filter(|_| self.random.chance(60))
        .collect();
        let mut profile = json!({
            "defaultAction": default["action"], "architectures": archs, "listenerPath": "/run/agent.sock",
        });
        if let Some(errno) = default.get("errnoRet") {
            profile["defaultErrnoRet"] = errno.clone();
        }
        let most = self.random.of(&[1, 5, 20, 60]);
        let rules = 1 + self.random.below(most);
        let rules: Vec<Value> = (0..rules).map(|_| self.rule(kind)).collect();
        profile["syscalls"] = json!(rules);
        profile
    }

    fn rule(&mut self, kind: Kind) -> Value {
        let conditional = self.random.chance(if kind == Kind::Plain { 40 } else { 60 });
        let most = self.random.of(&[1, 3, 40]);
        let count = 1 + self.random.below(if conditional { 3 } else { most });
        let favoured = ["socket", "clone", "personality", "semop", "ioctl", "accept"];
        // 32-bit x86 sends several calls through one number. Rules with and without conditions for one of them, or for the
        // number itself, are rules with different actions on it, which only `Kind::Conflicting` is about.
        let multiplexed = |name: &str| syscalls::x86_multiplexed(name).is_some();
        let mut names: Vec<&'static str> = (0..count)
            .map(|_| {
                if conditional && self.random.chance(60) {
                    self.random.of(&favoured)
                } else {
                    let at = self.random.below(self.names.len());
                    self.names[at]
                }
            })
            .filter(|name| *name != "write")
            .filter(|name| {
                let mine = favoured.contains(name);
                let special =
                    ["ipc", "socketcall"].contains(name) || multiplexed(name) && mine != conditional;
                kind == Kind::Conflicting || !special
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        if !conditional && kind != Kind::Conflicting {
            names.retain(|name| !multiplexed(name) || self.multiplexed.insert(*name));
        }
        if names.is_empty() {
            names.push("read");
        }
        let mut rule = self.action(false);
        if conditional {
            names.truncate(1);
            let shape = u8::try_from(self.random.below(3)).unwrap();
            let entry = self.conditional.entry(names[0]).or_insert((rule.clone(), shape, 0));
            entry.2 += 1;
            // Of three conflicting ranges on an argument libseccomp compares the third one with the wrong one of the others.
            let shape = if kind == Kind::Conflicting && entry.2 > 2 { 0 } else { entry.1 };
            let action = entry.0.clone();
            if kind != Kind::Conflicting {
                rule = action;
            }
            rule["args"] = self.args(kind, shape);
        }
        rule["names"] = json!(names);
        rule
    }

    fn args(&mut self, kind: Kind, shape: u8) -> Value {
        let ops = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
        let mut args = Vec::new();
        match (kind, shape) {
            (Kind::Plain, _) => {
                for _ in 0..1 + self.random.below(3) {
                    let index = self.random.below(4);
                    args.push(self.arg(kind, index, &ops));
                }
            }
            // Equalities on any arguments.
            (_, 0) => {
                for index in 0..4 {
                    if self.random.chance(50) {
                        args.push(self.arg(kind, index, &["EQ", "MASKED_EQ"]));
                    }
                }
            }
            // One condition.
            (_, 1) => {
                let index = self.random.below(3);
                let ops = if kind == Kind::Conflicting { &["EQ", "MASKED_EQ"][..] } else { &ops };
                args.push(self.arg(kind, index, ops));
            }
            // A range on one argument.
            _ => {
                let ops = if kind == Kind::Conflicting { &["GT", "GE"][..] } else { &["LT", "LE", "NE"] };
                args.push(self.arg(kind, 1, ops));
            }
        }
        if args.is_empty() {
            args.push(self.arg(kind, 0, &["EQ"]));
        }
        json!(args)
    }

    fn arg(&mut self, kind: Kind, index: usize, ops: &[&str]) -> Value {
        let op = self.random.of(ops);
        let range = kind != Kind::Plain && ["LT", "LE", "GT", "GE"].contains(&op);
        let value = if range { self.value() & 0xffff_ffff } else { self.value() };
        let mut arg = json!({"index": index, "op": format!("SCMP_CMP_{op}"), "value": value});
        if op == "MASKED_EQ" {
            arg["valueTwo"] = json!(self.value());
        }
        arg
    }

    fn value(&mut self) -> u64 {
        if self.random.chance(90) { self.random.of(&VALUES) } else { self.random.next() }
    }

    fn call(&mut self, plain: &Plain, machine: &TestMachine, numbers: &[(u8, u32)]) -> Call {
        let (_, mut arch, abi, _) = self.random.of(machine.abis);
        let (number_abi, mut number) = match numbers {
            [] => (abi as u8, self.random.word() % 500),
            _ => self.random.of(numbers),
        };
        match self.random.below(20) {
            0 => number = self.random.word(),
            1 => number ^= X32_BIT,
            2 => number = number.wrapping_add(1),
            3 => number = number.wrapping_sub(1),
            4..7 => number = self.random.word() % 600,
            7 => number = u32::MAX,
            8 => arch = self.random.of(&[0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0, 0x0000_0008]),
            _ => arch = machine.abis.iter().find(|one| one.2 as u8 == number_abi).unwrap().1,
        }
        let used: Vec<u64> = plain
            .rules
            .get(&(number_abi, number))
            .into_iter()
            .flatten()
            .flat_map(|rule| &rule.args)
            .flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)])
            .chain(VALUES)
            .collect();
        let args = std::array::from_fn(|_| {
            let value = self.random.of(&used);
            match self.random.below(8) {
                0 => value.wrapping_add(1),
                1 => value.wrapping_sub(1),
                2 => value ^ (1 << self.random.below(64)),
                3 => value & 0xffff_ffff,
                4 => self.random.next() % 25,
                _ => value,
            }
        });
        Call { arch, number, args }
    }
}

/// libseccomp's answer to some profiles: programs, or the errno of the rule that it refuses; and its numbers.
fn libseccomp(machine: &TestMachine, profiles: &[Value], names: &[&str]) -> Option<Value> {
    let others: Vec<(&str, u32)> = machine.abis[1..].iter().map(|one| (one.0, one.3)).collect();
    let request =
        json!({"machine": machine.abis[0].3, "others": others, "profiles": profiles, "names": names});
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libseccomp_bpf.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("libseccomp.so.2"), "{error}");
        println!("skipped: no libseccomp.so.2");
        return None;
    }
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn program(hex: &str) -> Vec<sock_filter> {
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    bytes
        .chunks_exact(8)
        .map(|one| sock_filter {
            code: u16::from_le_bytes([one[0], one[1]]),
            jt: one[2],
            jf: one[3],
            k: u32::from_le_bytes([one[4], one[5], one[6], one[7]]),
        })
        .collect()
}

fn compiled(profile: &Value, machine: &TestMachine) -> Result<Vec<sock_filter>, String> {
    let profile: LinuxSeccomp = serde_json::from_value(profile.clone()).unwrap();
    compile_for(&profile, machine.machine).map(|filter| filter.program).map_err(|error| error.to_string())
}

/// The numbers that a profile has rules for: where most of the random calls should go.
fn ruled(plain: &Plain) -> Vec<(u8, u32)> {
    let mut numbers: Vec<(u8, u32)> = plain.rules.keys().copied().collect();
    numbers.sort_unstable();
    // As often again those with conditions.
    let with = |key: &&(u8, u32)| plain.rules[*key].iter().any(|rule| !rule.args.is_empty());
    let conditional: Vec<(u8, u32)> = numbers.iter().filter(with).copied().collect();
    let times = if conditional.is_empty() { 0 } else { numbers.len() / conditional.len() };
    (0..=times).for_each(|_| numbers.extend(&conditional));
    numbers
}

/// What libseccomp's program and the `ENOSYS` rule together say, bad architectures killing the process.
fn reference(program: &[sock_filter], plain: &Plain, machine: &TestMachine, call: &Call) -> u32 {
    let (value, _) = interpret(program, call);
    let tracer = call.arch == 0xc000_003e && call.number == u32::MAX;
    match machine.abi(&plain.value, call) {
        None if tracer => value,
        None => {
            assert_eq!(value, 0, "libseccomp kills the thread of a bad architecture: {call:?}");
            KILL_PROCESS
        }
        Some(abi) => plain.unheard_of(abi, call.number).unwrap_or(value),
    }
}

/// 10,000 calls for each of `profiles` against libseccomp; returns how many both refused.
fn differential(machine: &TestMachine, generator: &mut Generator, profiles: &[Value]) -> Option<usize> {
    let answer = libseccomp(machine, profiles, &[])?;
    let mut refused = 0;
    for (profile, theirs) in profiles.iter().zip(answer["programs"].as_array().unwrap()) {
        let ours = compiled(profile, machine);
        let Some(theirs) = theirs.as_str() else {
            assert!(ours.is_err(), "libseccomp refuses ({theirs}): {profile}");
            refused += 1;
            continue;
        };
        let (ours, theirs) = (ours.unwrap_or_else(|error| panic!("{error}: {profile}")), program(theirs));
        let plain = Plain::new(profile, machine);
        let numbers = ruled(&plain);
        for _ in 0..10_000 {
            let call = generator.call(&plain, machine, &numbers);
            let (value, _) = interpret(&ours, &call);
            let expected = reference(&theirs, &plain, machine, &call);
            assert_eq!(value, expected, "{value:#x} for {expected:#x}: {call:x?} {profile}");
        }
    }
    Some(refused)
}

/// security.md E12: 100 random profiles on both kinds of machine do what a plain reading of them says.
#[test]
fn e12_plain_reading() {
    for (machine, seed) in TEST_MACHINES.iter().zip([1, 2]) {
        let mut generator = Generator::new(seed);
        for _ in 0..50 {
            let profile = generator.profile(Kind::Plain);
            let program = compiled(&profile, machine).unwrap_or_else(|error| panic!("{error}: {profile}"));
            let plain = Plain::new(&profile, machine);
            let numbers = ruled(&plain);
            for _ in 0..10_000 {
                let call = generator.call(&plain, machine, &numbers);
                let (value, _) = interpret(&program, &call);
                let expected = plain.reading(machine, &call);
                assert_eq!(value, expected, "{value:#x} for {expected:#x}: {call:x?} {profile}");
            }
        }
    }
}

/// security.md E12: the same decision as libseccomp's program for 50 random profiles on each kind of
/// machine, 10,000 calls each.
#[test]
fn e12_libseccomp_random_profiles() {
    for (machine, seed) in TEST_MACHINES.iter().zip([3, 4]) {
        let mut generator = Generator::new(seed);
        let profiles: Vec<Value> = (0..50).map(|_| generator.profile(Kind::Faithful)).collect();
        let Some(refused) = differential(machine, &mut generator, &profiles) else { return };
        assert_eq!(refused, 0);
    }
}

/// security.md E12: rules with different actions that overlap are decided in libseccomp's order, and where it refuses two
/// rules, so do we.
#[test]
fn e12_libseccomp_conflicting_rules() {
    for (machine, seed) in TEST_MACHINES.iter().zip([5, 6]) {
        let mut generator = Generator::new(seed);
        let profiles: Vec<Value> = (0..50).map(|_| generator.profile(Kind::Conflicting)).collect();
        let Some(refused) = differential(machine, &mut generator, &profiles) else { return };
        assert!(refused < 40, "{refused} of 50 profiles refused: too few are compared");
    }
}

/// Docker's profile without the calls that libseccomp 2.5.4 does not know.
fn docker_for_libseccomp() -> Value {
    let mut profile: Value = serde_json::from_str(DOCKER).unwrap();
    let known = Generator::new(1).names;
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        rule["names"].as_array_mut().unwrap().retain(|name| known.contains(&name.as_str().unwrap()));
    }
    profile
}

/// security.md E12: Docker's default profile, against libseccomp and against the plain reading.
#[test]
fn e12_docker_profile() {
    let machine = &TEST_MACHINES[0];
    let mut generator = Generator::new(7);
    differential(machine, &mut generator, &[docker_for_libseccomp()]);
    let profile: Value = serde_json::from_str(DOCKER).unwrap();
    let program = compiled(&profile, machine).unwrap();
    let plain = Plain::new(&profile, machine);
    let numbers = ruled(&plain);
    let (mut steps, mut most) = (0, 0);
    for _ in 0..10_000 {
        let call = generator.call(&plain, machine, &numbers);
        let (value, count) = interpret(&program, &call);
        assert_eq!(value, plain.reading(machine, &call), "{call:x?}");
        (steps, most) = (steps + count, most.max(count));
    }
    println!("{} instructions; {most} at most and {} on average for a call", program.len(), steps / 10_000);
    assert!(program.len() < 400, "{} instructions", program.len());
    assert!(most < 30, "{most} instructions for one call");
}

/// security.md E11: each number from 0 to 1024 of each ABI, and the x32 numbers; newer than the profile is ENOSYS.
#[test]
fn e11_every_number() {
    for machine in &TEST_MACHINES {
        let archs: Vec<&str> = machine.abis.iter().map(|one| one.0).collect();
        for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
            let profile = json!({
                "defaultAction": default,
                "architectures": archs,
                "syscalls": [
                    {"names": ["read", "openat2", "no_such_call"], "action": "SCMP_ACT_TRAP"},
                    {"names": ["close_range"], "action": default},
                ],
            });
            let program = compiled(&profile, machine).unwrap();
            let plain = Plain::new(&profile, machine);
            for (_, arch, abi, _) in machine.abis {
                let base = abi.first_number();
                for number in (base..=base + 1024).chain([u32::MAX]) {
                    let call = Call { arch: *arch, number, args: [0; 6] };
                    let (value, _) = interpret(&program, &call);
                    assert_eq!(value, plain.reading(machine, &call), "{default} {call:?}");
                }
            }
            // close_range is named, with the default action: not newer, but 437 (openat2) is not the newest either.
            let at = |number| interpret(&program, &Call { arch: machine.abis[0].1, number, args: [0; 6] }).0;
            let lets_through = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"].contains(&default);
            assert_eq!(at(436), action_value(default, None));
            assert_eq!(at(438), if lets_through { action_value(default, None) } else { ENOSYS });
            assert_eq!(at(999), at(438));
        }
    }
}

/// security.md E10: x32 numbers and foreign architectures are killed unless they are listed.
#[test]
fn e10_other_abis_are_killed() {
    let machine = &TEST_MACHINES[0];
    let check = |archs: &[&str], arch, number, expected| {
        let rules = json!([{"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}]);
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": archs, "syscalls": rules});
        let program = compiled(&profile, machine).unwrap();
        let (value, _) = interpret(&program, &Call { arch, number, args: [0; 6] });
        assert_eq!(value, expected, "{archs:?} {arch:#x} {number:#x}");
    };
    let (x86_64, x86, getpid) = (0xc000_003e, 0x4000_0003, 39);
    for archs in [&[][..], &["SCMP_ARCH_X86"], &["SCMP_ARCH_X86_64"], &["SCMP_ARCH_AARCH64"]] {
        check(archs, x86_64, getpid, ALLOW);
        check(archs, x86_64, getpid | X32_BIT, KILL_PROCESS);
        check(archs, x86_64, 0x8000_0000 | getpid, KILL_PROCESS);
        check(archs, x86_64, u32::MAX, ERRNO | 1);
        check(archs, 0xc000_00b7, 172, KILL_PROCESS);
    }
    check(&["SCMP_ARCH_X32"], x86_64, getpid | X32_BIT, ALLOW);
    check(&["SCMP_ARCH_X32"], x86_64, getpid, ALLOW);
    check(&[], x86, 20, KILL_PROCESS);
    check(&["SCMP_ARCH_X86"], x86, 20, ALLOW);
    check(&["SCMP_ARCH_X86"], x86, getpid, ENOSYS);
}

/// security.md E12: the numbers of all calls that libseccomp knows are the ones that it has.
#[test]
fn e12_libseccomp_numbers() {
    let names: Vec<&str> = syscalls::names().collect();
    for machine in &TEST_MACHINES {
        let Some(answer) = libseccomp(machine, &[], &names) else { return };
        for ((_, _, abi, _), theirs) in machine.abis.iter().zip(answer["numbers"].as_array().unwrap()) {
            for (name, theirs) in names.iter().zip(theirs.as_array().unwrap()) {
                let ours = syscalls::find(name).unwrap().number(*abi);
                let theirs = theirs.as_u64().map(|number| u32::try_from(number).unwrap());
                // libseccomp gives these pseudo numbers, of its own.
                let multiplexed = *abi == Abi::X86 && syscalls::x86_multiplexed(name).is_some();
                let newer = theirs.is_none() && (multiplexed || !libseccomp_knows(name));
                assert!(ours == theirs || newer, "{abi:?} {name}: {ours:?} {theirs:?}");
            }
        }
    }
}

/// security.md E12: programs much longer than a jump reaches are right, and too long ones are an error, never cut.
#[test]
fn e12_long_programs() {
    let machine = &TEST_MACHINES[0];
    let names: Vec<&str> = syscalls::names().filter(|name| *name != "write").collect();
    let profile = |conditions: usize| {
        let rules: Vec<Value> = names
            .iter()
            .enumerate()
            .flat_map(|(at, name)| (0..conditions).map(move |one| (at, *name, one)))
            .map(|(at, name, one)| {
                let arg = json!({"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 1 << one, "valueTwo": at});
                json!({"names": [name], "action": "SCMP_ACT_TRACE", "errnoRet": at, "args": [arg]})
            })
            .collect();
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})
    };
    let fits = profile(1);
    let program = compiled(&fits, machine).unwrap();
    assert!(program.len() > 1500 && program.len() <= MAX_INSTRUCTIONS, "{}", program.len());
    let (plain, mut generator) = (Plain::new(&fits, machine), Generator::new(8));
    let numbers = ruled(&plain);
    for _ in 0..10_000 {
        let call = generator.call(&plain, machine, &numbers);
        assert_eq!(interpret(&program, &call).0, plain.reading(machine, &call), "{call:x?}");
    }
    let error = compiled(&profile(4), machine).unwrap_err();
    assert!(error.starts_with("/linux/seccomp: needs "), "{error}");
    assert!(error.ends_with("BPF instructions, and the kernel takes 4096"), "{error}");
}
