//! Fixture T7 over whole suites: every call of the runtime that a suite makes is recorded, up to the point where a process
//! executes another program, and the five assertions of [`crate::recorder`] are made of each record.
//!
//! What runs is a command with the path of a runtime as its last argument, which records and calls the real one; this suite itself
//! where none is given. How the command ends is its own matter: some cases cannot hold under strace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{During, Failure, Outcome, exit_status};
use crate::recorder::{self, Event};
use crate::{ensure, leftovers, runner};

const USAGE: &str = "usage: spec-tests policy --runtime PATH [-- COMMAND...]";

/// What the assertions look at; a `?` for those that not every architecture has.
const RECORDED: &str = "?open,?creat,openat,openat2,?mkdir,mkdirat,?mknod,mknodat,?symlink,symlinkat,?link,linkat,?unlink,unlinkat,\
    ?rmdir,?rename,?renameat,renameat2,?chmod,fchmodat,?chown,?lchown,fchownat,?stat,?lstat,newfstatat,statx,?access,faccessat,\
    faccessat2,?readlink,readlinkat,statfs,truncate,utimensat,setxattr,lsetxattr,chdir,chroot,mount,umount2,open_tree,move_mount,\
    fsopen,fsmount,fspick,socket,socketpair,?accept,accept4,?pipe,pipe2,dup,?dup2,dup3,fcntl,?epoll_create,epoll_create1,?eventfd,\
    eventfd2,?signalfd,signalfd4,?inotify_init,inotify_init1,memfd_create,execve,execveat";

/// The assertions, in the order of the catalogue.
const RULES: [&str; 5] = [
    "(1) after the rootfs is open, no path of the host leads in",
    "(2) opens in the rootfs are by openat2, confined",
    "(3) every descriptor is made with close-on-exec",
    "(4) no write to procfs by a path of the host",
    "(5) no mount by path after the rootfs is open",
];

/// How the names of files begin that stand for a call that was not traced.
const UNTRACED: &str = "untraced.";

/// The variable with the directory of the recorder, where one records the suite.
pub const RECORDER: &str = "SPEC_TESTS_RECORDER";

/// `policy`; the exit status.
pub fn run(arguments: &[String]) -> i32 {
    exit_status(record_and_judge(arguments))
}

fn record_and_judge(arguments: &[String]) -> Outcome<bool> {
    let (runtime, command) = match arguments {
        [flag, runtime] if flag == "--runtime" => (runtime, &[][..]),
        [flag, runtime, dashes, command @ ..] if flag == "--runtime" && dashes == "--" => (runtime, command),
        _ => return Err(Failure::new(USAGE)),
    };
    let runtime = fs::canonicalize(runtime).during(runtime)?;
    ensure!(Path::new("/usr/bin/strace").exists(), "strace is not installed");
    let dir = leftovers::base_dir().join(format!("policy-{}", std::process::id()));
    let traces = dir.join("traces");
    fs::create_dir_all(&traces)?;
    // All that the wrapper needs is in one directory, which a sacrificial host has, too.
    let recorded = dir.join("recorded");
    fs::copy(&runtime, &recorded).during("copy the runtime")?;
    let wrapper = dir.join(runner::runtime_kind(&runtime)?);
    write_wrapper(&wrapper, &recorded, &traces)?;
    let status = run_suite(command, &wrapper, &dir)?;
    let said = fs::read(dir.join("output")).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().filter(|line| line.starts_with("FAIL")).take(20).for_each(|line| println!("{line}"));
    let totals = judge_all(&traces);
    leftovers::remove_tree(&dir);
    let totals = totals?;
    for (rule, violations) in RULES.iter().zip(&totals.violations) {
        println!("{rule}: {} violations", violations.len());
        violations.iter().take(5).for_each(|line| println!("    {line}"));
    }
    let violations: usize = totals.violations.iter().map(Vec::len).sum();
    println!(
        "{} calls of the runtime recorded, {} of them with a rootfs, {} calls of a user not; {} system calls looked at: \
         {violations} violations; the suite ended with status {status}: {}",
        totals.calls,
        totals.with_rootfs,
        totals.untraced,
        totals.events,
        said.trim_end().lines().next_back().unwrap_or_default()
    );
    ensure!(totals.calls > 0, "nothing was recorded by this suite");
    Ok(violations == 0)
}

/// A program that stands for the runtime. strace lets go of a process that executes another program: it is not the runtime's
/// any more, and create would never return.
///
/// A user's call is left alone, and counted: the kernel ignores the set-user-ID bit of what a traced process executes (execve(2)),
/// which newuidmap needs. Suites have PID namespaces and users of their own: names of files are chosen by the directory.
fn write_wrapper(wrapper: &Path, runtime: &Path, traces: &Path) -> Outcome {
    let recorded: String = RECORDED.split_whitespace().collect();
    let text = format!(
        "#!/bin/sh\nruntime='{}'\ntraces='{}'\n\
         if [ \"$(id -u)\" != 0 ]; then mktemp \"$traces/{UNTRACED}XXXXXXXX\" >/dev/null; exec \"$runtime\" \"$@\"; fi\n\
         exec strace -D -f -b execve -qq -y -v -s 512 -e 'trace={recorded}' -o \"$(mktemp \"$traces/XXXXXXXX\")\" -- \"$runtime\" \"$@\"\n",
        runtime.display(),
        traces.display(),
    );
    fs::write(wrapper, text)?;
    fs::set_permissions(traces, fs::Permissions::from_mode(0o1777))?;
    Ok(fs::set_permissions(wrapper, fs::Permissions::from_mode(0o755))?)
}

fn run_suite(command: &[String], wrapper: &Path, dir: &Path) -> Outcome<i32> {
    let own = std::env::current_exe()?.display().to_string();
    let own = [
        own,
        "--soak".to_owned(),
        "2".to_owned(),
        "--patience".to_owned(),
        "4".to_owned(),
        // These would count the recorder's instructions.
        "--exclude".to_owned(),
        "cost_".to_owned(),
        "--runtime".to_owned(),
    ];
    let (program, words) = match command {
        [program, words @ ..] => (program, words),
        [] => (&own[0], &own[1..]),
    };
    let output = fs::File::create(dir.join("output"))?;
    let mut suite = Command::new(program);
    suite.env(RECORDER, dir);
    suite.args(words).arg(wrapper).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = suite.status().during(program)?;
    Ok(status.code().unwrap_or(-1))
}

#[derive(Default)]
struct Totals {
    calls: usize,
    with_rootfs: usize,
    untraced: usize,
    events: usize,
    violations: [Vec<String>; 5],
}

fn judge_all(traces: &Path) -> Outcome<Totals> {
    let mut totals = Totals::default();
    for entry in fs::read_dir(traces)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNTRACED) {
            totals.untraced += 1;
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
        let events = recorder::parse(&text);
        totals.calls += 1;
        totals.events += events.len();
        judge(&events, &mut totals);
    }
    Ok(totals)
}

fn judge(events: &[Event], totals: &mut Totals) {
    let [paths, opens, cloexec, writes, mounts] = &mut totals.violations;
    if let Some(rootfs) = rootfs_of(events) {
        totals.with_rootfs += 1;
        // Where hooks of the host look for the rootfs on its path, that path is looked up once more, for the mount point alone;
        // so is it in a mount namespace that is joined.
        let point = format!("\"{rootfs}\", {{flags=O_RDONLY|O_CLOEXEC|O_PATH|O_DIRECTORY, resolve=0}}");
        let (by_path, mounted): (Vec<String>, Vec<String>) = recorder::paths_into_rootfs(events, &rootfs)
            .into_iter()
            .filter(|line| !line.contains(&point))
            .partition(|line| !line.starts_with("mount("));
        paths.extend(by_path);
        mounts.extend(mounted);
        opens.extend(recorder::opens_in_rootfs(events, &rootfs));
    }
    cloexec.extend(recorder::without_cloexec(events));
    writes.extend(recorder::writes_to_host_proc(events));
}

/// The root file system that a call has copied: by the name that most bundles have for it; engines give it others, and there it is
/// the first that is put anywhere.
fn rootfs_of(events: &[Event]) -> Option<String> {
    let is_tree = |event: &&Event| event.name == "open_tree";
    let mut named = events.iter().filter(is_tree).filter_map(recorder::named_by);
    named.find(|path| path.ends_with("/rootfs")).or_else(|| {
        let first = events.iter().position(|event| event.name == "move_mount")?;
        let moved = recorder::number(&events[first].arguments)?;
        let of_number = |event: &&Event| recorder::number(&event.result) == Some(moved);
        recorder::named_by(events[..first].iter().filter(is_tree).rfind(of_number)?)
    })
}
