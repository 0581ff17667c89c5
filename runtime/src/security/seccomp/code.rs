//! The instructions of a BPF program: jumps, loads, and what compares an argument.

use oci_spec::runtime::LinuxSeccompOperator;
use seccompiler::sock_filter;

use super::{Condition, KILL_PROCESS, MAX_INSTRUCTIONS, Match, halves};
use crate::error::{Error, Result};

/// Where a jump leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To a return of this value.
    Return(u32),
    /// To the instruction with this index in [`Code::reversed`].
    Code(usize),
}

// Instruction codes: linux/bpf_common.h.
/// `BPF_LD | BPF_W | BPF_ABS`
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`
pub(super) const JUMP_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`
const JUMP_GREATER: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`
const JUMP_GREATER_EQUAL: u16 = 0x35;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data` of linux/seccomp.h.
pub(super) const NUMBER_OFFSET: u32 = 0;
pub(super) const ARCH_OFFSET: u32 = 4;

/// The offsets of the low and the high half of an argument.
fn argument_offsets(argument: u8) -> (u32, u32) {
    let low = 16 + 8 * u32::from(argument);
    (low, low + 4)
}

/// A BPF program in the making, its last instruction first.
///
/// Only the instructions above are used: the kernel runs programs made of them (without argument loads on the way) once
/// for each number when a filter is loaded and never again for numbers that are always allowed
/// (`seccomp_cache_prepare` of kernel/seccomp.c).
#[derive(Default)]
pub(super) struct Code {
    reversed: Vec<sock_filter>,
    /// The return instructions so far: value and index.
    returns: Vec<(u32, usize)>,
}

impl Code {
    /// How many instructions a conditional jump goes over at most: 255 by its 8 bits, less the two that `jump` may put in
    /// between.
    const REACH: usize = 253;

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// How many instructions the next one jumps over to get to `index`.
    fn distance(&self, index: usize) -> usize {
        self.reversed.len() - index - 1
    }

    /// The index of an instruction that leads to `target` and that a conditional jump can reach.
    fn reachable(&mut self, target: Target) -> usize {
        match target {
            Target::Code(index) if self.distance(index) <= Self::REACH => index,
            Target::Code(index) => self.push_jump(index),
            Target::Return(value) => {
                let last = self.returns.iter().rev().find(|(returned, _)| *returned == value);
                match last {
                    Some((_, index)) if self.distance(*index) <= Self::REACH => *index,
                    _ => self.push_return(value),
                }
            }
        }
    }

    fn push_jump(&mut self, index: usize) -> usize {
        // A program that is too long for 32 bits is refused by `finish`.
        let distance = u32::try_from(self.distance(index)).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    fn push_return(&mut self, value: u32) -> usize {
        let index = self.push(RETURN, 0, 0, value);
        self.returns.push((value, index));
        index
    }

    /// A conditional jump: `then` where `code` holds between the accumulator and `k`, else `otherwise`.
    pub(super) fn jump(&mut self, code: u16, k: u32, then: Target, otherwise: Target) -> Target {
        let (then, otherwise) = (self.reachable(then), self.reachable(otherwise));
        let offset = |index| u8::try_from(self.distance(index)).unwrap_or(u8::MAX);
        let (jt, jf) = (offset(then), offset(otherwise));
        Target::Code(self.push(code, jt, jf, k))
    }

    /// Makes the next instruction go on to `target`.
    pub(super) fn fall_into(&mut self, target: Target) {
        match target {
            Target::Code(index) if index + 1 == self.reversed.len() => {}
            Target::Code(index) => {
                self.push_jump(index);
            }
            Target::Return(value) => {
                self.push_return(value);
            }
        }
    }

    /// Loads the 32 bits at `offset` of `struct seccomp_data`, and goes on to what was emitted last.
    pub(super) fn load(&mut self, offset: u32) -> Target {
        Target::Code(self.push(LOAD, 0, 0, offset))
    }

    /// Loads a half of an argument and compares it under `mask`: a condition on no bits always holds.
    fn equal(&mut self, offset: u32, mask: u32, value: u32, then: Target, otherwise: Target) -> Target {
        if mask == 0 {
            return then;
        }
        self.jump(JUMP_EQUAL, value, then, otherwise);
        if mask != u32::MAX {
            self.push(AND, 0, 0, mask);
        }
        self.load(offset)
    }

    /// A binary search for the range that the number in the accumulator is in.
    pub(super) fn tree(&mut self, starts: &[(u32, Target)]) -> Target {
        match starts {
            [] => Target::Return(KILL_PROCESS),
            [(_, target)] => *target,
            [(_, around), (number, at), (after, same)] if around == same && number + 1 == *after => {
                self.jump(JUMP_EQUAL, *number, *at, *around)
            }
            _ => {
                let (low, high) = starts.split_at(starts.len() / 2);
                let greater = self.tree(high);
                let less = self.tree(low);
                self.jump(JUMP_GREATER_EQUAL, high[0].0, greater, less)
            }
        }
    }

    /// The action of the first match, or `default`. 64-bit arguments are compared by halves where `wide`.
    pub(super) fn matches(&mut self, matches: &[Match], default: Target, wide: bool) -> Target {
        let mut next = default;
        let mut rest = matches;
        while let [.., last] = rest {
            let run = rest.iter().rev().take_while(|one| same_word(one, last)).count();
            let (before, run) = rest.split_at(rest.len() - run.max(1));
            next = match run {
                [one] => self.conditions(one, next, wide),
                _ => self.one_of(run, next, wide),
            };
            rest = before;
        }
        next
    }

    /// All conditions of `one`, else `next`.
    fn conditions(&mut self, one: &Match, next: Target, wide: bool) -> Target {
        let then = Target::Return(one.action);
        one.conditions.iter().rev().fold(then, |then, condition| self.condition(condition, then, next, wide))
    }

    /// Several plain equalities with the same word of an argument: its high half is compared once.
    fn one_of(&mut self, run: &[Match], next: Target, wide: bool) -> Target {
        let first = &run[0].conditions[0];
        let (low_offset, high_offset) = argument_offsets(first.argument);
        let mut found = next;
        for one in run.iter().rev() {
            let (low, _) = halves(one.conditions[0].value);
            found = self.jump(JUMP_EQUAL, low, Target::Return(one.action), found);
        }
        found = self.load(low_offset);
        if wide {
            found = self.equal(high_offset, u32::MAX, halves(first.value).1, found, next);
        }
        found
    }

    fn condition(&mut self, condition: &Condition, then: Target, otherwise: Target, wide: bool) -> Target {
        use LinuxSeccompOperator::{
            ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe,
        };
        let (low, high) = argument_offsets(condition.argument);
        let (low_value, high_value) = halves(condition.value);
        let (low_mask, high_mask) = halves(condition.mask);
        // Each of the other operators is the opposite of one of these.
        let (then, otherwise) = match condition.operator {
            ScmpCmpNe | ScmpCmpLt | ScmpCmpLe => (otherwise, then),
            ScmpCmpEq | ScmpCmpMaskedEq | ScmpCmpGt | ScmpCmpGe => (then, otherwise),
        };
        let compare = match condition.operator {
            ScmpCmpEq | ScmpCmpMaskedEq | ScmpCmpNe => {
                let equal = self.equal(low, low_mask, low_value, then, otherwise);
                return if wide { self.equal(high, high_mask, high_value, equal, otherwise) } else { equal };
            }
            ScmpCmpGt | ScmpCmpLe => JUMP_GREATER,
            ScmpCmpGe | ScmpCmpLt => JUMP_GREATER_EQUAL,
        };
        self.jump(compare, low_value, then, otherwise);
        let mut start = self.load(low);
        if wide {
            let equal = self.jump(JUMP_EQUAL, high_value, start, otherwise);
            self.jump(JUMP_GREATER, high_value, then, equal);
            start = self.load(high);
        }
        start
    }

    pub(super) fn finish(mut self) -> Result<Vec<sock_filter>> {
        let length = self.reversed.len();
        if length > MAX_INSTRUCTIONS {
            return Err(too_long(length));
        }
        self.reversed.reverse();
        Ok(self.reversed)
    }
}

/// The error for a program of so many instructions, or of more.
pub(super) fn too_long(length: usize) -> Error {
    let what = format!("needs {length} BPF instructions, and the kernel takes {MAX_INSTRUCTIONS}");
    Error::new(format!("/linux/seccomp: {what}"))
}

/// Whether both compare the same word of the same argument for plain equality, and nothing else.
fn same_word(one: &Match, other: &Match) -> bool {
    let plain = |one: &Match| match one.conditions[..] {
        [condition] if condition.operator == LinuxSeccompOperator::ScmpCmpEq => {
            Some((condition.argument, halves(condition.value).1))
        }
        _ => None,
    };
    plain(one).is_some() && plain(one) == plain(other)
}
