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

/// Assertion 1 and 5: once the rootfs has been opened, nothing is addressed by a path of the host into it, and
/// nothing is mounted by path.
pub fn paths_into_rootfs(events: &[Event], rootfs: &str) -> Vec<String> {
    let quoted = format!("\"{rootfs}");
    let opened =
        events.iter().position(|event| event.name.starts_with("open") && event.result.contains(rootfs));
    let Some(opened) = opened else { return Vec::new() };
    let by_path = events[opened + 1..].iter().filter(|event| {
        let mount = event.name == "mount" && !event.arguments.starts_with("NULL, \"/\"");
        mount || event.arguments.contains(&quoted)
    });
    by_path.map(Event::line).collect()
}

/// Assertion 2: what is opened in the rootfs is opened by openat2, confined, without magic links.
pub fn opens_in_rootfs(events: &[Event], rootfs: &str) -> Vec<String> {
    let directory = format!("<{rootfs}");
    let confined = |event: &Event| {
        event.name == "openat2"
            && event.arguments.contains("RESOLVE_NO_MAGICLINKS")
            && (event.arguments.contains("RESOLVE_IN_ROOT") || event.arguments.contains("RESOLVE_BENEATH"))
    };
    let opens =
        events.iter().filter(|event| ["open", "openat", "openat2", "creat"].contains(&event.name.as_str()));
    opens
        .filter(|event| {
            // The directory is the first argument; an empty path or "." reopens the directory itself.
            let own = event.arguments.contains("\"\"") || event.arguments.contains("\".\"");
            let first = event.arguments.split(',').next().unwrap_or_default();
            first.contains(&directory) && !own && !confined(event)
        })
        .map(Event::line)
        .collect()
}

/// Assertion 3: every descriptor is made with close-on-exec; only what is put onto 0 to 2 is not.
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
        let standard = ["dup2", "dup3"].contains(&event.name.as_str())
            && ["0", "1", "2"].iter().any(|number| event.result.split('<').next() == Some(number));
        (maker || duplicate) && !event.failed() && !event.arguments.contains("CLOEXEC") && !standard
    };
    events.iter().filter(lacks).map(Event::line).collect()
}

/// Assertion 4: nothing of procfs is opened for writing by a path of the host.
pub fn writes_to_host_proc(events: &[Event]) -> Vec<String> {
    let writes = |event: &&Event| {
        event.name.starts_with("open")
            && (event.arguments.contains("O_WRONLY") || event.arguments.contains("O_RDWR"))
            && event.arguments.contains("\"/proc/")
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
8 socket(AF_UNIX, SOCK_STREAM, 0) = 9<UNIX:[1]>
8 dup3(9, 1, 0) = 1
8 execve("/probe", ["/probe"], []) = 0
8 openat(AT_FDCWD</>, "/b/rootfs/x", O_RDONLY) = 3</x>"#;

    /// security.md, fixture T7: each assertion sees its own violation and nothing else.
    #[test]
    fn t7_assertions_see_violations() {
        let events = before_the_program(parse(TRACE));
        assert_eq!(events.len(), 9);
        assert!(events.iter().any(|event| event.name == "clone3" && event.result == "8"));
        assert_eq!(paths_into_rootfs(&events, "/b/rootfs").len(), 1);
        assert!(opens_in_rootfs(&events, "/b/rootfs")[0].contains("\"etc\""));
        assert_eq!(opens_in_rootfs(&events, "/b/rootfs").len(), 1);
        assert!(without_cloexec(&events)[0].starts_with("socket"));
        assert_eq!(without_cloexec(&events).len(), 1);
        assert_eq!(writes_to_host_proc(&events).len(), 1);
    }
}
