//! `skeg ps`: the processes of a container.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::cli::PsFormat;
use crate::error::{Context as _, Error, Result};
use crate::state::Container;
use crate::sys::fd::{read_to_end, write_all};
use crate::sys::pid;
use crate::sys::posix_spawn::{Program, spawn};

/// Where ps(1) is.
const PROGRAMS: [&std::ffi::CStr; 2] = [c"/usr/bin/ps", c"/bin/ps"];

/// The most that is read of its output: a line for each of 4 million processes would be more than anyone reads.
const OUTPUT_LIMIT: usize = 64 << 20;

/// Prints the processes of the container, those in sub-cgroups too.
///
/// # Errors
/// The cgroup cannot be read; ps(1) cannot be run or fails.
pub fn ps(container: &Container, format: &PsFormat) -> Result<()> {
    let pids = Cgroup::open(&container.state.cgroup).pids(true)?;
    let text = match format {
        PsFormat::Json => json(&pids),
        PsFormat::Table(options) => table(&run_ps(options)?, &pids)?,
    };
    write_all(std::io::stdout(), &text).context(|| "print the processes")
}

/// A JSON array, as callers of runc read it.
fn json(pids: &[Pid]) -> Vec<u8> {
    let numbers: Vec<String> = pids.iter().map(Pid::to_string).collect();
    format!("[{}]\n", numbers.join(",")).into_bytes()
}

/// The output of ps(1) with these options, `-ef` where there are none.
fn run_ps(options: &[OsString]) -> Result<Vec<u8>> {
    let what = || "run ps";
    let text = |text: &[u8]| CString::new(text).map_err(|_| Error::new("ps options: must not contain NUL"));
    let mut args = vec![c"ps".to_owned()];
    for option in options {
        args.push(text(option.as_bytes())?);
    }
    if options.is_empty() {
        args.push(c"-ef".to_owned());
    }
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        env.push(text(&[name.into_vec(), b"=".to_vec(), value.into_vec()].concat())?);
    }
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(what)?;
    let child = start(&args, &env, &writer).context(what)?;
    // Before reading: with our own copy open the output would have no end.
    drop(writer);
    let pidfd = pid::open(child).context(what)?;
    let output = read_to_end(&reader, OUTPUT_LIMIT);
    drop(reader);
    let status = pid::wait_child(&pidfd).context(what)?;
    match output.context(what)? {
        output if status == 0 => Ok(output),
        // ps itself has said why on standard error.
        _ => Err(Error::new(format!("ps: exit status {status}"))),
    }
}

fn start(args: &[CString], env: &[CString], output: &OwnedFd) -> nix::Result<Pid> {
    let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
    let mut result = Err(Errno::ENOENT);
    for path in PROGRAMS {
        let stdio = [stdin.as_fd(), output.as_fd(), stderr.as_fd()];
        result = spawn(&Program { path, args, env, cwd: None, stdio });
        if result != Err(Errno::ENOENT) {
            break;
        }
    }
    result
}

/// The heading of ps(1)'s output and the lines of these processes; which column has the number is the heading's to say.
fn table(output: &[u8], pids: &[Pid]) -> Result<Vec<u8>> {
    let mut lines = output.split_inclusive(|&byte| byte == b'\n');
    let heading = lines.next().unwrap_or_default();
    let fields =
        |line: &[u8]| String::from_utf8_lossy(line).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let column = fields(heading)
        .iter()
        .position(|field| field == "PID")
        .ok_or_else(|| Error::new("couldn't find PID field in ps output"))?;
    let mut kept = heading.to_vec();
    for line in lines {
        let Some(number) = fields(line).get(column).and_then(|field| field.parse().ok()) else { continue };
        if pids.binary_search(&Pid::from_raw(number)).is_ok() {
            kept.extend_from_slice(line);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// peers.md A1.3: `ps --format json` is an array of ints.
    #[test]
    fn json_is_an_array_of_numbers() {
        assert_eq!(json(&[]), b"[]\n");
        assert_eq!(json(&[Pid::from_raw(7), Pid::from_raw(12)]), b"[7,12]\n");
    }

    #[test]
    fn table_keeps_the_heading_and_the_lines_of_the_container() {
        let output = b"UID   PID PPID CMD\nroot    7    1 a 12\nroot   12    1 b\nroot  712    1 c\n";
        let kept = table(output, &[Pid::from_raw(12)]).unwrap();
        assert_eq!(String::from_utf8(kept).unwrap(), "UID   PID PPID CMD\nroot   12    1 b\n");
        let error = table(b"CMD\nx\n", &[]).unwrap_err().to_string();
        assert_eq!(error, "couldn't find PID field in ps output");
    }

    #[test]
    fn ps_of_the_host_is_run_with_the_options_given() {
        let own = Pid::this();
        let default = table(&run_ps(&[]).unwrap(), &[own]).unwrap();
        assert_eq!(default.iter().filter(|&&byte| byte == b'\n').count(), 2);
        let chosen = table(&run_ps(&["-eo".into(), "pid".into()]).unwrap(), &[own]).unwrap();
        let chosen = String::from_utf8(chosen).unwrap();
        assert_eq!(chosen.split_whitespace().collect::<Vec<_>>(), ["PID", &own.to_string()]);
    }
}
