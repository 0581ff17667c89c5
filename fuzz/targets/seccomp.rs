//! The seccomp compiler: a profile is refused, or becomes a program that the kernel's checker takes (net/core/filter.c,
//! `bpf_check_classic`, and kernel/seccomp.c, `seccomp_check_filter`) on every kind of machine.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxSeccomp;
use skeg::security::seccomp::{
    Filter, MACHINE_AARCH64, MACHINE_RISCV64, MACHINE_X86_64, allows_all, compile_for,
};

/// `BPF_MAXINSNS` of linux/bpf_common.h.
const MOST: usize = 4096;
/// `sizeof(struct seccomp_data)`.
const DATA: u32 = 64;

fuzz_target!(|text: &[u8]| {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(text) else { return };
    let _nothing_to_load = allows_all(&profile);
    for machine in [MACHINE_X86_64, MACHINE_AARCH64, MACHINE_RISCV64] {
        if let Ok(filter) = compile_for(&profile, machine) {
            check(&filter);
        }
    }
});

fn check(filter: &Filter) {
    let program = &filter.program;
    assert!(!program.is_empty() && program.len() <= MOST, "{} instructions", program.len());
    for (at, instruction) in program.iter().enumerate() {
        let reaches =
            |offset: u32| (at + 1).checked_add(offset as usize).is_some_and(|to| to < program.len());
        match u32::from(instruction.code) & 0x07 {
            // BPF_LD: a word of the data, aligned.
            libc::BPF_LD => assert!(instruction.k < DATA && instruction.k % 4 == 0, "load at {at}"),
            libc::BPF_JMP if u32::from(instruction.code) & 0xf0 == libc::BPF_JA => {
                assert!(reaches(instruction.k), "jump at {at}");
            }
            libc::BPF_JMP => {
                assert!(reaches(instruction.jt.into()) && reaches(instruction.jf.into()), "branch at {at}");
            }
            libc::BPF_ALU | libc::BPF_RET => {}
            other => panic!("instruction {other:#x} at {at}"),
        }
    }
    let last = program.last().map(|instruction| u32::from(instruction.code) & 0x07);
    assert_eq!(last, Some(libc::BPF_RET), "the end");
}
