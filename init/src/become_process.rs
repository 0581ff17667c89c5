//! The checklist: from the first call of the sealed program to execve.
//!
//! What fails is reported once: over the channel until the runtime has said `Proceed`, and through the gate to `start`
//! after that.

use core::ffi::CStr;

use alloc::vec::Vec;

use crate::channel::{Channel, NAME, tag};
use crate::error::{Context as _, Error, Result};
use crate::hooks;
use crate::instructions::Instructions;
use crate::procfs;
use crate::program::Program;
use crate::security;
use crate::sys::{self, Fd, Forked};

/// How many arguments the program takes: its name and what [`Launch`] says.
pub const ARGUMENTS: usize = Launch::ARGUMENTS;

/// The argument vector that the runtime executes this program with: where the instructions are, and what is known only in
/// the process that has joined the namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// The descriptor of the program itself.
    pub program: Fd,
    /// Where in it the instructions begin: a multiple of the page size.
    pub offset: usize,
    /// How long they are.
    pub length: usize,
    /// Whether setgroups(2) is allowed: not in a user namespace that an unprivileged user mapped.
    pub may_set_groups: bool,
}

impl Launch {
    /// The name of the program and a number each.
    pub const ARGUMENTS: usize = 5;

    /// The arguments behind the name.
    pub fn to_numbers(self) -> [usize; Self::ARGUMENTS - 1] {
        let program = usize::try_from(self.program).unwrap_or(0);
        [program, self.offset, self.length, usize::from(self.may_set_groups)]
    }

    fn from_arguments(arguments: &[Option<&CStr>; ARGUMENTS]) -> Option<Self> {
        let number = |index: usize| arguments.get(index).copied()??.to_str().ok()?.parse::<usize>().ok();
        Some(Self {
            program: Fd::try_from(number(1)?).ok()?,
            offset: number(2)?,
            length: number(3)?,
            may_set_groups: number(4)? == 1,
        })
    }
}

/// Runs the checklist. Whoever executes the program without instructions, from inside a container say, gets an exit status of 1.
pub fn main(arguments: &[Option<&CStr>; ARGUMENTS]) -> ! {
    let start = || {
        let launch = Launch::from_arguments(arguments)?;
        let bytes = sys::map_file(launch.program, launch.offset, launch.length).ok()?;
        sys::close(launch.program);
        if let Some(socket) = procfs::decode(bytes) {
            procfs::run(socket);
        }
        Some((Instructions::decode(bytes)?, launch.may_set_groups))
    };
    if let Some((instructions, may_set_groups)) = start() {
        let (to, error) = become_process(&instructions, may_set_groups);
        to.fail(&error);
    }
    sys::exit(1)
}

/// Returns only to say what failed, and to whom.
fn become_process(instructions: &Instructions<'_>, may_set_groups: bool) -> (Channel, Error) {
    let runtime = Channel(instructions.channel);
    let program = match prepare(instructions, runtime, may_set_groups) {
        Ok(program) => program,
        Err(error) => return (runtime, error),
    };
    let Some(gate) = instructions.gate else {
        return (runtime, execute(instructions, &program, runtime));
    };
    // Nobody is at the other end of the channel any more once `create` has returned.
    let start = Channel(gate.started);
    let waited = sys::read(gate.start, &mut [0]).context(|| "wait for start");
    (start, waited.err().unwrap_or_else(|| execute(instructions, &program, start)))
}

/// Everything up to the point where the runtime has recorded the process.
fn prepare<'a>(
    instructions: &Instructions<'a>,
    runtime: Channel,
    may_set_groups: bool,
) -> Result<Program<'a>> {
    // A new program is dumpable: those who share its PID namespace could look into it (row C4).
    sys::control(libc::PR_SET_DUMPABLE, 0, 0).context(|| "stop being dumpable")?;
    sys::set_name(NAME);
    // Before it waits at the gate: what the caller ignores or blocks (a shell does so with SIGQUIT for what runs in the background) is
    // not to keep a created container from the signals that it is sent.
    sys::reset_signals().context(|| "reset the signals")?;
    // Some of them had to come through execve; before the filter, which may be a profile that is older than close_range(2).
    sys::mark_cloexec_from(first_own(instructions)).context(|| "close the runtime's descriptors")?;
    // execve puts a label on, and a fork hands on which (apparmor_task_alloc, selinux_cred_prepare): so the procfs, which is the
    // runtime's, is closed before anybody in the container's PID namespace sees this process (row C4).
    security::set_labels(instructions)?;
    if let Some(procfs) = instructions.procfs {
        sys::close(procfs);
    }
    if instructions.fork {
        go_on_as_sibling(runtime)?;
    }
    if instructions.terminal {
        sys::take_controlling_terminal(0).context(|| "set the controlling terminal")?;
    }
    security::apply(instructions, may_set_groups, |listener| hand_over(runtime, listener))?;
    let program = Program::find(instructions)?;
    // From here on the runtime's end is no reason to end (it returns after `create`), but only once it has said so.
    sys::control(libc::PR_SET_PDEATHSIG, 0, 0).context(|| "clear the parent-death signal")?;
    if !instructions.said_ready {
        runtime.send(&[tag::READY])?;
    }
    runtime.expect(tag::PROCEED)?;
    Ok(program)
}

/// Gives the seccomp listener to the runtime, and waits until it has been handed on.
fn hand_over(runtime: Channel, listener: Fd) -> Result<()> {
    let message: Vec<u8> = [&[tag::SECCOMP_LISTENER][..], &listener.to_ne_bytes()].concat();
    runtime.send(&message)?;
    runtime.expect(tag::LISTENER_SENT)?;
    sys::close(listener);
    Ok(())
}

/// The first descriptor that is not the program's.
fn first_own(instructions: &Instructions<'_>) -> Fd {
    Fd::try_from(instructions.handed_on).ok().and_then(|count| count.checked_add(3)).unwrap_or(Fd::MAX)
}

/// Goes on as another process, in the PID namespace that was joined, whose parent is the runtime as well.
fn go_on_as_sibling(runtime: Channel) -> Result<()> {
    match sys::fork(true).context(|| "fork")? {
        Forked::Parent(pid) => {
            let message: Vec<u8> = [&[tag::FORKED][..], &pid.to_ne_bytes()].concat();
            runtime.send(&message)?;
            sys::exit(0)
        }
        Forked::Child => {
            die_with_parent()?;
            sys::new_session().context(|| "make a session")?;
            // What this process says must not overtake the message above.
            runtime.expect(tag::ADOPTED)
        }
    }
}

/// A runtime that is killed leaves no half-made container behind.
///
/// # Errors
/// The errno of prctl(2).
pub fn die_with_parent() -> Result<()> {
    sys::control(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0).map(drop).context(|| "set the parent-death signal")
}

/// startContainer hooks, then descriptors, limits, the announcement, the filter that nothing but execve has to
/// pass, and the program. Returns only to say what failed.
fn execute(instructions: &Instructions<'_>, program: &Program<'_>, to: Channel) -> Error {
    let mut late_filter = late_filter(instructions);
    let mut prepare = || -> Result<()> {
        if !instructions.hooks.is_empty() {
            // These programs are the image's, and have no more rights than the one that it is started for (as in runc).
            late_filter.take().map_or(Ok(None), |filter| security::load(&filter))?;
            hooks::run(&instructions.hooks, instructions.state)?;
        }
        match sys::mark_cloexec_from(first_own(instructions)) {
            // A filter that is in force already may not allow it; what is open has been close-on-exec from the beginning.
            Err(_) if instructions.filter.is_some() && late_filter.is_none() => {}
            result => result.context(|| "close descriptors")?,
        }
        security::set_limits(instructions)
    };
    if let Err(error) = prepare() {
        return error;
    }
    to.announce(instructions.filter.is_some());
    if let Some(filter) = late_filter
        && let Err(error) = security::load(&filter)
    {
        return error;
    }
    program.execute()
}

/// The filter that is to be loaded right before execve (row E8).
pub fn late_filter<'a>(instructions: &Instructions<'a>) -> Option<crate::instructions::Filter<'a>> {
    instructions.filter.filter(|filter| instructions.no_new_privs && !filter.notifies)
}

#[cfg(test)]
mod tests {
    use alloc::ffi::CString;
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    fn a_launch_crosses_execve() {
        let launch = Launch { program: 9, offset: 65536, length: 1234, may_set_groups: true };
        let texts = launch.to_numbers().map(|number| CString::new(number.to_string()).unwrap());
        let mut arguments = [Some(c"skeg-init"); ARGUMENTS];
        for (argument, text) in arguments.iter_mut().skip(1).zip(&texts) {
            *argument = Some(text.as_c_str());
        }
        assert_eq!(Launch::from_arguments(&arguments), Some(launch));
        assert_eq!(Launch::from_arguments(&[Some(c"x"), Some(c"sh"), None, None, None]), None);
    }
}
