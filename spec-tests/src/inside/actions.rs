//! Things that the probe tries on request: each action is an array of strings, each result is `{"ok": value}` or
//! `{"errno": "EROFS"}`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{ForkResult, Pid};
use serde_json::{Value, json};

use super::report;
use crate::sys;

/// Does every action of a JSON array in turn.
pub fn perform_all(actions: &Value) -> Value {
    let results = actions.as_array().into_iter().flatten().map(|action| {
        let words: Vec<&str> = action.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match perform(&words) {
            Ok(value) => json!({ "ok": value }),
            Err(errno) => json!({ "errno": format!("{errno:?}") }),
        }
    });
    Value::Array(results.collect())
}

fn perform(words: &[&str]) -> nix::Result<Value> {
    let word = |index: usize| words.get(index).copied().unwrap_or_default();
    let path = Path::new(word(1));
    match word(0) {
        "read" => read(path),
        "write" => os(fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
            use std::io::Write;
            file.write_all(word(2).as_bytes())
        })),
        "create" => os(fs::OpenOptions::new().write(true).create_new(true).open(path).map(drop)),
        "open" => open(path, word(2)),
        "mkdir" => os(fs::create_dir(path)),
        "rmdir" => os(fs::remove_dir(path)),
        "unlink" => os(fs::remove_file(path)),
        "symlink" => os(std::os::unix::fs::symlink(word(2), path)),
        "chmod" => done(nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            path,
            Mode::from_bits_truncate(u32::from_str_radix(word(2), 8).unwrap_or(0)),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )),
        "chown" => done(nix::unistd::chown(path, Some(number(word(2)).into()), Some(number(word(3)).into()))),
        "describe" => Ok(report::describe(path)),
        "inode" => fs::metadata(path)
            .map(|found| json!(format!("{}:{}", found.dev(), found.ino())))
            .map_err(errno_of),
        "readlink" => fs::read_link(path).map(|link| json!(link)).map_err(errno_of),
        "list" => list(path),
        "mknod" => mknod(path, word(2), word(3), word(4)),
        "flags" => Ok(json!(format!("{:?}", nix::sys::statvfs::statvfs(path)?.flags()))),
        "mount" => done(nix::mount::mount(
            Some(word(2)),
            path,
            Some(word(3)),
            MsFlags::empty(),
            words.get(4).copied(),
        )),
        "remount-rw" => done(nix::mount::mount(
            None::<&str>,
            path,
            None::<&str>,
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
            None::<&str>,
        )),
        "join" => {
            let namespace = fs::File::open(path).map_err(errno_of)?;
            done(nix::sched::setns(namespace, nix::sched::CloneFlags::empty()))
        }
        "umount" => done(nix::mount::umount2(path, MntFlags::MNT_DETACH)),
        "syscall" => sys::raw_syscall(signed(word(1)), [signed(word(2)), signed(word(3)), signed(word(4))])
            .map(|value| json!(value)),
        "int80" => sys::int80(number(word(1))).map(|value| json!(value)),
        "sethostname" => done(nix::unistd::sethostname(word(1))),
        "setuid" => done(nix::unistd::setuid(number(word(1)).into())),
        "kill" => {
            done(sys::send_signal(Pid::from_raw(word(1).parse().unwrap_or(0)), word(2).parse().unwrap_or(0)))
        }
        "sleep" => {
            std::thread::sleep(Duration::from_millis(u64::from(number(word(1)))));
            Ok(Value::Null)
        }
        "push-input" => {
            use std::os::fd::AsFd;
            let terminal = fs::OpenOptions::new().read(true).open(path).map_err(errno_of)?;
            done(sys::push_terminal_input(terminal.as_fd(), b'x'))
        }
        "fork" => fork_many(number(word(1))),
        "hold" => hold(number(word(1))),
        "occupy" => done(sys::occupy(word(1).parse().unwrap_or(0))),
        "report" => Ok(report::report()),
        "say" => {
            println!("{}", word(1));
            Ok(Value::Null)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// Has that many bytes of memory until the process ends.
fn hold(bytes: u32) -> nix::Result<Value> {
    let block = vec![1_u8; usize::try_from(bytes).unwrap_or(0)];
    std::mem::forget(std::hint::black_box(block));
    Ok(Value::Null)
}

fn number(word: &str) -> u32 {
    word.parse().unwrap_or(0)
}

fn signed(word: &str) -> i64 {
    word.parse().unwrap_or(0)
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn os(result: std::io::Result<()>) -> nix::Result<Value> {
    result.map(|()| Value::Null).map_err(errno_of)
}

fn done<T>(result: nix::Result<T>) -> nix::Result<Value> {
    result.map(|_| Value::Null)
}

/// The first 64 KiB of a file; never blocks on a FIFO.
fn read(path: &Path) -> nix::Result<Value> {
    let file =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(errno_of)?;
    let mut bytes = Vec::new();
    file.take(65_536).read_to_end(&mut bytes).map_err(errno_of)?;
    Ok(json!(String::from_utf8_lossy(&bytes)))
}

fn open(path: &Path, how: &str) -> nix::Result<Value> {
    let mut options = fs::OpenOptions::new();
    options.read(how.contains('r')).write(how.contains('w')).custom_flags(libc::O_NONBLOCK);
    os(options.open(path).map(drop))
}

fn list(path: &Path) -> nix::Result<Value> {
    let mut names: Vec<String> = fs::read_dir(path)
        .map_err(errno_of)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(json!(names))
}

fn mknod(path: &Path, kind: &str, major: &str, minor: &str) -> nix::Result<Value> {
    let kind = match kind {
        "c" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let device = libc::makedev(number(major), number(minor));
    done(nix::sys::stat::mknod(path, kind, Mode::from_bits_truncate(0o600), device))
}

/// How many of `count` children could be made; they all end before this returns.
fn fork_many(count: u32) -> nix::Result<Value> {
    let mut children = Vec::new();
    let mut refusal = None;
    for _ in 0..count {
        match sys::fork() {
            Ok(ForkResult::Child) => loop {
                nix::unistd::pause();
            },
            Ok(ForkResult::Parent { child }) => children.push(child),
            Err(errno) => {
                refusal = Some(format!("{errno:?}"));
                break;
            }
        }
    }
    for child in &children {
        sys::send_signal(*child, libc::SIGKILL)?;
        nix::sys::wait::waitpid(*child, None)?;
    }
    Ok(json!({ "made": children.len(), "refusal": refusal }))
}
