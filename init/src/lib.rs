//! The program that becomes the container's process, and what it is told.
//!
//! Every process that a container can see runs from a sealed copy of this program, never from a file of the host
//! (CVE-2019-5736, CVE-2022-0847; rows C1 and C2 of the catalogue). The runtime prepares all that needs its own size (namespaces, the root file
//! system), and then executes this: it is small so that the copy costs nothing, needs no C library, and holds next to no
//! memory while the container waits to be started.
//!
//! | file | what is in it |
//! |---|---|
//! | `instructions.rs` | what the runtime decided, as bytes behind the program |
//! | `become_process.rs` | the checklist: from the first call to execve |
//! | `security.rs` | what a process is given, for the init process and exec processes alike |
//! | `program.rs` | which file is run, with which environment |
//! | `hooks.rs` | startContainer hooks |
//! | `diagnose.rs` | the reason behind a failed execve |
//! | `procfs.rs` | its other task: a procfs of a PID namespace that only a child can be in |
//! | `channel.rs` | what it says to the runtime and to `start` |
//! | `sys.rs`, `sys/` | all `unsafe` code: a system call a wrapper; of the program alone, its start and what else a C library would have |
//! | `main.rs` | the program: that start, and what a mistake of ours ends in |

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod become_process;
pub mod channel;
pub mod diagnose;
pub mod error;
pub mod hooks;
pub mod instructions;
pub mod procfs;
pub mod program;
pub mod security;
pub mod sys;
