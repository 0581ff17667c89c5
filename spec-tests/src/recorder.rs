//! Fixture T7: the system calls of a runtime, recorded by strace, and the rules that hold for them. It tests the
//! rule, not one exploit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::failure::{During, Outcome, skip};
use crate::harness::{Ctx, Ran};

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The thread that made it.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Its arguments as strace prints them, descriptors with what they refer to.
    pub arguments: String,
    /// What it returned.
    pub result: String,
}

impl Event {
    fn line(&self) -> String {
        format!("{}({}) = {}", self.name, self.arguments, self.result)
    }

    fn failed(&self) -> bool {
        self.result.starts_with('-') || self.result.starts_with('?')
    }
}

/// Calls the runtime under strace; what it did before the container's program ran.
pub fn record(ctx: &Ctx, arguments: &[&str], stdin: &str) -> Outcome<(Ran, Vec<Event>)> {
    let strace = Path::new("/usr/bin/strace");
    if !strace.exists() {
        return skip("strace is not installed");
    }
    let output = ctx.path("strace");
    let call = ctx.program(strace).args(["-f", "-y", "-v", "-qq", "-s", "4096", "-o"]).arg(&output);
    let call = call.arg("--").arg(&ctx.runtime).arg("--root").arg(&ctx.root).args(arguments);
    let ran = call.stdin(stdin)?.run()?;
    let text = fs::read_to_string(&output).during("strace's output")?;
    Ok((ran, before_the_program(parse(&text))))
}

/// Takes strace's lines apart; calls that were interrupted by another thread's are joined again.
pub fn parse(text: &str) -> Vec<Event> {
    let mut open: BTreeMap<i32, String> = BTreeMap::new();
    let mut events = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let (Ok(pid), rest) = (pid.parse::<i32>(), rest.trim_start()) else { continue };
        let whole = if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            open.insert(pid, start.trim_end().to_owned());
            continue;
        } else if let Some((_, end)) =
            rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"))
        {
            format!("{}{end}", open.remove(&pid).unwrap_or_default())
        } else {
            rest.to_owned()
        };
        let Some((call, result)) = whole.rsplit_once(" = ") else { continue };
        let Some((name, arguments)) = call.split_once('(') else { continue };
        events.push(Event {
            pid,
            name: name.to_owned(),
            arguments: arguments.trim_end().strip_suffix(')').unwrap_or(arguments).to_owned(),
            result: result.to_owned(),
        });
    }
    events
}

/// Leaves out what processes did after they had become the container's program.
fn before_the_program(events: Vec<Event>) -> Vec<Event> {
    let mut gone = BTreeSet::new();
    let mut kept = Vec::new();
    for event in events {
        if gone.contains(&event.pid) {
            continue;
        }
        if event.name == "execve" && event.arguments.starts_with("\"/probe\"") && !event.failed() {
            gone.insert(event.pid);
        }
        kept.push(event);
    }
    kept
}

/// Where a root file system is opened: by a call that shows its path, or by open_tree(2), whose result is a mount of its own and
/// shows none.
pub fn opening(events: &[Event], rootfs: &str) -> Option<usize> {
    events.iter().position(|event| {
        let by_tree = event.name == "open_tree" && named_by(event).as_deref() == Some(rootfs);
        event.name.starts_with("open") && !event.failed() && (event.result.contains(rootfs) || by_tree)
    })
}

/// The path that the first two arguments are together: a directory as strace shows it, and a name in quotes.
pub fn named_by(event: &Event) -> Option<String> {
    let (dir, rest) = event.arguments.split_once(", \"")?;
    let name = rest.split('"').next()?;
    let dir = dir.split_once('<')?.1.strip_suffix('>')?;
    Some(if name.starts_with('/') { name.to_owned() } else { format!("{dir}/{name}") })
}

/// Assertion 1 and 5: once the rootfs has been opened, nothing is addressed by a path of the host into it, and
/// nothing is mounted by path.
pub fn paths_into_rootfs(events: &[Event], rootfs: &str) -> Vec<String> {
    let quoted = [format!("\"{rootfs}\""), format!("\"{rootfs}/")];
    let Some(opened) = opening(events, rootfs) else { return Vec::new() };
    let by_path = events[opened + 1..].iter().filter(|event| {
        let mount = event.name == "mount" && !event.arguments.starts_with("NULL, \"/\"");
        mount || (event.name != "write" && quoted.iter().any(|path| event.arguments.contains(path)))
    });
    by_path.map(Event::line).collect()
}

/// Assertion 2: what is opened in the rootfs is opened by openat2, confined, without magic links. In the rootfs is what is shown
/// to be, and what was opened by a descriptor of its mount.
pub fn opens_in_rootfs(events: &[Event], rootfs: &str) -> Vec<String> {
    let Some(opened) = opening(events, rootfs) else { return Vec::new() };
    let directory = format!("<{rootfs}");
    let confined = |event: &Event| {
        event.name == "openat2"
            && event.arguments.contains("RESOLVE_NO_MAGICLINKS")
            && (event.arguments.contains("RESOLVE_IN_ROOT") || event.arguments.contains("RESOLVE_BENEATH"))
    };
    let first: BTreeSet<i32> = number(&events[opened].result).into_iter().collect();
    // A process begins with the descriptors of the one that opened it.
    let mut of_process: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::from([(events[opened].pid, first.clone())]);
    let mut found = Vec::new();
    for event in &events[opened + 1..] {
        let own = of_process.entry(event.pid).or_insert_with(|| first.clone());
        let start = event.arguments.split(',').next().unwrap_or_default();
        let inside = start.contains(&directory) || number(start).is_some_and(|dir| own.contains(&dir));
        let opens = ["open", "openat", "openat2", "creat"].contains(&event.name.as_str());
        // An empty path or "." reopens the directory itself.
        let itself = event.arguments.contains("\"\"") || event.arguments.contains("\".\"");
        if opens && inside && !itself && !confined(event) {
            found.push(event.line());
        }
        let derives = opens || ["open_tree", "fcntl", "dup"].contains(&event.name.as_str());
        if let Some(result) = number(&event.result).filter(|_| event.result.contains('<')) {
            if inside && derives {
                own.insert(result)
            } else {
                own.remove(&result)
            };
        }
    }
    found
}

/// The descriptor that a text begins with: `38</>`.
pub fn number(text: &str) -> Option<i32> {
    text.split('<').next()?.trim().parse().ok()
}

/// Assertion 3: every descriptor is made with close-on-exec; only what is put onto 0 to 2 is not, nor what the standard library
/// opens where the caller has closed them.
pub fn without_cloexec(events: &[Event]) -> Vec<String> {
    const MAKERS: [&str; 18] = [
        "open",
        "openat",
        "openat2",
        "socket",
        "socketpair",
        "accept",
        "accept4",
        "pipe",
        "pipe2",
        "dup",
        "dup2",
        "dup3",
        "epoll_create",
        "epoll_create1",
        "eventfd2",
        "memfd_create",
        "fsopen",
        "signalfd4",
    ];
    let lacks = |event: &&Event| {
        let maker =
            MAKERS.contains(&event.name.as_str()) || ["fsmount", "open_tree"].contains(&event.name.as_str());
        let duplicate = event.name == "fcntl" && event.arguments.contains("F_DUPFD,");
        let standard = number(&event.result).is_some_and(|made| (0..=2).contains(&made));
        (maker || duplicate) && !event.failed() && !event.arguments.contains("CLOEXEC") && !standard
    };
    events.iter().filter(lacks).map(Event::line).collect()
}

/// Assertion 4: nothing of procfs is opened for writing by a path of the host. What a magic link leads to is not of procfs: a
/// manager may give a file of its own so, for the log.
pub fn writes_to_host_proc(events: &[Event]) -> Vec<String> {
    let writes = |event: &&Event| {
        event.name.starts_with("open")
            && (event.arguments.contains("O_WRONLY") || event.arguments.contains("O_RDWR"))
            && event.arguments.contains("\"/proc/")
            && (event.failed() || event.result.contains("</proc/"))
    };
    events.iter().filter(writes).map(Event::line).collect()
}

/// The positions of calls whose line starts so.
pub fn positions(events: &[Event], start: &str) -> Vec<usize> {
    events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.line().starts_with(start))
        .map(|(index, _)| index)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"7 openat2(AT_FDCWD</x>, "/b/rootfs", {flags=O_PATH|O_CLOEXEC, resolve=0}, 24) = 5</b/rootfs>
7 clone3({flags=0} <unfinished ...>
8 openat(5</b/rootfs>, "etc", O_RDONLY|O_CLOEXEC) = 6</b/rootfs/etc>
7 <... clone3 resumed>, 88) = 8
8 openat2(5</b/rootfs>, "dev", {flags=O_PATH|O_CLOEXEC, resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT}, 24) = 6</b/rootfs/dev>
8 mkdirat(AT_FDCWD</x>, "/b/rootfs/dev/pts", 0755) = 0
8 openat(AT_FDCWD</x>, "/proc/self/attr/exec", O_WRONLY|O_CLOEXEC) = 9</proc/8/attr/exec>
8 openat2(AT_FDCWD</x>, "/proc/1/fd/3", {flags=O_WRONLY|O_CLOEXEC, resolve=0}, 24) = 9</memfd:log>(deleted)
8 socket(AF_UNIX, SOCK_STREAM, 0) = 9<UNIX:[1]>
8 dup3(9, 1, 0) = 1
8 execve("/probe", ["/probe"], []) = 0
8 openat(AT_FDCWD</>, "/b/rootfs/x", O_RDONLY) = 3</x>"#;

    /// security.md, fixture T7: each assertion sees its own violation and nothing else.
    #[test]
    fn t7_assertions_see_violations() {
        let events = before_the_program(parse(TRACE));
        assert_eq!(events.len(), 10);
        assert!(events.iter().any(|event| event.name == "clone3" && event.result == "8"));
        assert_eq!(paths_into_rootfs(&events, "/b/rootfs").len(), 1);
        assert!(opens_in_rootfs(&events, "/b/rootfs")[0].contains("\"etc\""));
        assert_eq!(opens_in_rootfs(&events, "/b/rootfs").len(), 1);
        assert!(without_cloexec(&events)[0].starts_with("socket"));
        assert_eq!(without_cloexec(&events).len(), 1);
        assert_eq!(writes_to_host_proc(&events).len(), 1);
    }

    const DETACHED: &str = r#"7 open_tree(3</b>, "rootfs", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE) = 38</>
8 openat2(38</>, "dev", {flags=O_PATH|O_CLOEXEC, resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT}, 24) = 9</dev>
8 openat(9</dev>, "null", O_PATH|O_CLOEXEC) = 10</dev/null>
8 openat2(38</>, "etc", {flags=O_PATH|O_CLOEXEC, resolve=RESOLVE_IN_ROOT}, 24) = 11</etc>
8 fsopen("proc", FSOPEN_CLOEXEC) = 9<anon_inode:[fscontext]>
8 openat(9</elsewhere>, "x", O_PATH|O_CLOEXEC) = 12</elsewhere/x>
8 mount("tmpfs", "/b/rootfs/tmp", "tmpfs", 0, NULL) = 0"#;

    /// The same where the rootfs is a mount of its own, whose descriptors show no path of the host.
    #[test]
    fn t7_a_detached_rootfs_is_known_by_its_descriptors() {
        let events = parse(DETACHED);
        let opens = opens_in_rootfs(&events, "/b/rootfs");
        assert_eq!(opens.len(), 2, "{opens:?}");
        assert!(opens[0].contains("null") && opens[1].contains("etc"), "{opens:?}");
        assert_eq!(paths_into_rootfs(&events, "/b/rootfs").len(), 1);
    }
}
