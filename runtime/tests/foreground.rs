//! The foreground terminal, driven from the other side of a real pseudo terminal (config.md, process, terminal).
//!
//! The program is two. Without arguments it is the test, which plays the person at the terminal; as
//! `foreground subject SCRIPT` it is what `skeg run` is in the foreground: it starts `sh -c SCRIPT` on a terminal of its own, as init
//! does it, and passes signals and terminal on until the end.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: it starts processes, and a failure is a panic"
)]

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, Uid, setsid};
use skeg::console::{Pty, open_pty, receive_master, send_master, socket_pair, use_terminal};
use skeg::foreground::Foreground;
use skeg::sys::clone::{Cloned, clone_process, exit_now};
use skeg::sys::{path, tty};

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["subject", script] => return subject(script, true),
        ["subject-without-terminal", script] => return subject(script, false),
        _ => {}
    }
    let tests: [(&str, fn()); 13] = [
        ("output_and_exit_status", output_and_exit_status),
        ("a_signal_that_kills_is_128_and_its_number", a_signal_that_kills_is_128_and_its_number),
        ("all_output_is_written_before_the_end", all_output_is_written_before_the_end),
        ("output_is_complete_behind_a_slow_reader", output_is_complete_behind_a_slow_reader),
        ("keys_are_for_the_container", keys_are_for_the_container),
        ("size_and_resize", size_and_resize),
        ("d4_the_callers_terminal_is_out_of_reach", d4_the_callers_terminal_is_out_of_reach),
        ("pipes_have_no_carriage_returns_and_an_end", pipes_have_no_carriage_returns_and_an_end),
        ("a_closed_terminal_may_be_opened_again", a_closed_terminal_may_be_opened_again),
        ("a_hangup_reaches_the_container", a_hangup_reaches_the_container),
        ("a_reader_that_goes_away_is_a_hangup", a_reader_that_goes_away_is_a_hangup),
        ("signals_go_to_the_container", signals_go_to_the_container),
        ("job_control_of_the_caller", job_control_of_the_caller),
    ];
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in tests {
        if filter.is_none_or(|filter| name.contains(filter.as_str())) {
            println!("test {name} ...");
            if std::panic::catch_unwind(test).is_err() {
                println!("test {name} ... FAILED");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("foreground: all passed");
    ExitCode::SUCCESS
}

/// What `run` does around the foreground half, without a container around the process.
fn subject(script: &str, terminal: bool) -> ExitCode {
    skeg::sys::fd::mark_cloexec_from(3).unwrap();
    let mut foreground = Foreground::new().unwrap();
    let (ours, theirs) = socket_pair().unwrap();
    let Cloned::Parent { pidfd, .. } = clone_process(0, None, false).unwrap() else {
        if terminal {
            let root = path::open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            let Pty { master, peer } = open_pty(root).unwrap();
            send_master(&theirs, &master).unwrap();
            setsid().unwrap();
            use_terminal(&peer, Uid::current()).unwrap();
            skeg_init::sys::take_controlling_terminal(0).unwrap();
        }
        // A shell that puts tests into the background has them ignore SIGINT.
        skeg_init::sys::reset_signals().unwrap();
        let arguments = ["sh", "-c", script].map(|argument| CString::new(argument).unwrap());
        let _ = nix::unistd::execv(c"/bin/sh", &arguments);
        exit_now(99);
    };
    drop(theirs);
    if terminal {
        foreground.attach(receive_master(&ours).unwrap()).unwrap();
    }
    let status = foreground.wait(pidfd).unwrap();
    ExitCode::from(u8::try_from(status).unwrap())
}

/// A program that does not outlive a test that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A terminal with a program on it.
struct Terminal {
    master: File,
    child: Running,
    /// What has been read and not yet been expected.
    seen: String,
}

impl Terminal {
    fn subject(script: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::program(&[program.to_str().unwrap(), "subject", script])
    }

    /// Starts a program in a session of its own with the terminal as its controlling terminal, 30 rows of 90 columns.
    fn program(arguments: &[&str]) -> Self {
        let root = path::open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        let Pty { master, peer } = open_pty(root).unwrap();
        let size = libc::winsize { ws_row: 30, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
        tty::set_window_size(&master, &size).unwrap();
        let stdio = || Stdio::from(peer.try_clone().unwrap());
        let child = Command::new("setsid")
            .arg("-c")
            .args(arguments)
            .env("PS1", "prompt> ")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        Self { master: File::from(master), child: Running(child), seen: String::new() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.0.id()).unwrap())
    }

    fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for `text` and takes it and what stands before it.
    fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(self.read(deadline), "no {text:?} in {:?}", self.seen);
        }
    }

    /// Reads more; false at the end or when the time is over.
    fn read(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap() == 0 {
            return false;
        }
        let mut chunk = [0; 65536];
        match self.master.read(&mut chunk) {
            Ok(count @ 1..) => {
                self.seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
                true
            }
            _ => false,
        }
    }

    /// Waits until the terminal is in raw mode, or is not.
    fn wait_raw(&self, raw: bool) {
        let is_raw = || !tcgetattr(&self.master).unwrap().local_flags.contains(LocalFlags::ICANON);
        wait_until(&format!("raw mode is {raw}"), || is_raw() == raw);
    }

    /// Reads to the end and takes the exit status.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        while self.read(deadline) {}
        (exit_code(&mut self.child), self.seen)
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn exit_code(child: &mut Running) -> Option<i32> {
    let mut status = None;
    wait_until("the end of the program", || {
        status = child.0.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code()
}

fn output_and_exit_status() {
    let terminal = Terminal::subject("echo hello; exit 7");
    let before = tcgetattr(&terminal.master).unwrap();
    let after = terminal.master.try_clone().unwrap();
    let held = tty::open_peer(&terminal.master).unwrap();
    let child_end = {
        let mut terminal = terminal;
        terminal.expect("hello\r\n");
        exit_code(&mut terminal.child)
    };
    assert_eq!(child_end, Some(7));
    assert_eq!(tcgetattr(&after).unwrap(), before);
    drop(held);
}

fn a_signal_that_kills_is_128_and_its_number() {
    assert_eq!(Terminal::subject("kill -9 $$").end().0, Some(137));
    assert_eq!(Terminal::subject("kill -TERM $$").end().0, Some(143));
}

/// Many times, since the kernel hands output over in the background.
fn all_output_is_written_before_the_end() {
    for _ in 0..20 {
        let (status, output) = Terminal::subject("seq 1 3000; exit 3").end();
        assert_eq!(status, Some(3));
        let expected: String = (1..=3000).map(|number| format!("{number}\r\n")).collect();
        assert_eq!(output, expected);
    }
}

/// What the process wrote is written however long its reader takes: here half a second after the process has ended.
fn output_is_complete_behind_a_slow_reader() {
    let program = std::env::current_exe().unwrap();
    let shell = format!(
        "setsid -w {} subject 'seq 1 20000' < /dev/null | (sleep 0.5; cat) | tail -n 1",
        program.display()
    );
    let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "20000\n");
}

/// Ctrl-C, Ctrl-Z and Ctrl-D act in the container: on its processes, by its terminal.
fn keys_are_for_the_container() {
    let mut terminal = Terminal::subject(
        "trap 'echo interrupted; on=1' INT; echo ready; until test $on; do sleep 0.05; done; read line; echo \"end $?\"; exit 5",
    );
    terminal.expect("ready");
    terminal.wait_raw(true);
    terminal.send("\x03");
    terminal.expect("interrupted");
    terminal.send("\x04");
    terminal.expect("end 1");
    assert_eq!(terminal.end().0, Some(5));

    let mut terminal = Terminal::subject("exec bash --norc --noprofile -i");
    terminal.expect("prompt> ");
    terminal.send("sleep 60\r");
    terminal.expect("sleep 60\r\n");
    std::thread::sleep(Duration::from_millis(100));
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.send("kill -9 %1; sleep 0.3; exit 4\r");
    assert_eq!(terminal.end().0, Some(4));
}

fn size_and_resize() {
    let mut terminal = Terminal::subject(
        "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done",
    );
    terminal.expect("30 90\r\n");
    terminal.expect("ready");
    let size = libc::winsize { ws_row: 41, ws_col: 123, ws_xpixel: 0, ws_ypixel: 0 };
    tty::set_window_size(&terminal.master, &size).unwrap();
    terminal.expect("41 123\r\n");
    assert_eq!(terminal.end().0, Some(0));
}

/// security.md D4: the container's controlling terminal is its own pair, its descriptors too.
fn d4_the_callers_terminal_is_out_of_reach() {
    // Not all of /proc/$$/fd: the shell has a pipe open for a moment.
    let script = "readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2 | sort -u; tty; (: < /dev/tty) && echo reached; ps -o tty= $$";
    let mut terminal = Terminal::subject(script);
    let outer = format!("/dev/pts/{}\r\n", tty::pty_number(&terminal.master).unwrap());
    let inner = terminal.expect("\r\n");
    assert!(inner.starts_with("/dev/pts/") && inner != outer, "{inner:?} {outer:?}");
    assert_eq!(terminal.expect("\r\n"), inner, "all descriptors are of one terminal");
    terminal.expect("reached\r\n");
    assert_eq!(format!("/dev/{}", terminal.expect("\r\n").trim_start()), inner, "the controlling terminal");
    assert_eq!(terminal.end().0, Some(0));
}

/// Without a terminal at the caller's side there is no raw mode; lines are lines, and the end of stdin is Ctrl-D.
fn pipes_have_no_carriage_returns_and_an_end() {
    let mut child = Running(
        Command::new(std::env::current_exe().unwrap())
            .args(["subject", "stty -echo; echo ready; cat; echo end; tty >/dev/null && exit 6"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut stdout = child.0.stdout.take().unwrap();
    let mut first = [0; 6];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"ready\n");
    let mut stdin = child.0.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "one\ntwo\nend\n");
    assert_eq!(exit_code(&mut child), Some(6));
}

/// An init that closes its terminal and opens it again later, as one that makes /dev/console its own does; the time between
/// costs no processor time.
fn a_closed_terminal_may_be_opened_again() {
    let script = "terminal=$(tty); echo first; exec < /dev/null > /dev/null 2>&1; sleep 1; exec > $terminal; echo again";
    let mut terminal = Terminal::subject(script);
    terminal.expect("first");
    std::thread::sleep(Duration::from_millis(700));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", terminal.child.0.id())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    assert!(ticks < 10, "{ticks} clock ticks of processor time in a second of nothing to do");
    terminal.expect("again");
    assert_eq!(terminal.end().0, Some(0));
}

/// The end of the caller's terminal is the end of the container's.
fn a_hangup_reaches_the_container() {
    let marker = std::env::temp_dir().join(format!("hooks-hangup-{}", std::process::id()));
    let script = format!(
        "trap 'echo gone > {}; exit 8' HUP; echo ready; while :; do sleep 0.05; done",
        marker.display()
    );
    let mut terminal = Terminal::subject(&script);
    terminal.expect("ready");
    terminal.wait_raw(true);
    let Terminal { master, mut child, .. } = terminal;
    drop(master);
    assert_eq!(exit_code(&mut child), Some(8));
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), "gone\n");
    std::fs::remove_file(&marker).unwrap();
}

/// `skeg run … | head -n 1` ends.
fn a_reader_that_goes_away_is_a_hangup() {
    let mut child = Running(
        Command::new(std::env::current_exe().unwrap())
            .args(["subject", "exec yes"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut two = [0; 2];
    let mut stdout = child.0.stdout.take().unwrap();
    stdout.read_exact(&mut two).unwrap();
    drop(stdout);
    assert_eq!(exit_code(&mut child), Some(128 + Signal::SIGHUP as i32));
}

/// Without a terminal every signal that has no meaning for skeg itself is the container's.
fn signals_go_to_the_container() {
    let script = "for s in HUP INT QUIT USR1 USR2 ALRM TERM; do trap \"echo $s\" $s; done; trap 'echo last; exit 12' RTMIN+3; \
                  echo ready; while :; do sleep 0.02; done";
    let mut child = Running(
        Command::new(std::env::current_exe().unwrap())
            .args(["subject-without-terminal", &format!("exec bash -c '{}'", script.replace('\'', "'\\''"))])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut stdout = child.0.stdout.take().unwrap();
    let mut line = || {
        let mut text = String::new();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            text.push(char::from(byte[0]));
        }
        text
    };
    assert_eq!(line(), "ready");
    let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    for (signal, name) in [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGALRM, "ALRM"),
        (Signal::SIGTERM, "TERM"),
    ] {
        kill(pid, signal).unwrap();
        assert_eq!(line(), name);
    }
    let realtime = Command::new("kill").args(["-s", "37", &pid.to_string()]).status().unwrap();
    assert!(realtime.success());
    assert_eq!(line(), "last");
    assert_eq!(exit_code(&mut child), Some(12));
}

/// skeg under an interactive shell: stopped, continued, started in the background; the shell's settings are the shell's whenever it
/// has the terminal.
fn job_control_of_the_caller() {
    // dash leaves the settings of the terminal alone, so that a mistake would be seen.
    let mut terminal = Terminal::program(&["dash", "-i"]);
    terminal.expect("prompt> ");
    let program = std::env::current_exe().unwrap();
    // Written in two pieces, so that the echo of the command is not taken for what it prints.
    let command =
        format!("{} subject 'echo r''eady; read line; echo \"g''ot $line\"; exit 3'", program.display());
    terminal.send(&format!("{command}; echo st''atus $?\r"));
    terminal.expect("ready");
    let subject = only_child(terminal.pid());
    kill(subject, Signal::SIGTSTP).unwrap();
    terminal.expect("Stopped");
    terminal.expect("prompt> ");
    terminal.send("stty -a | grep -o '[-]*opost'; fg\r");
    terminal.expect("\r\nopost");
    terminal.expect("subject");
    std::thread::sleep(Duration::from_millis(300));
    terminal.send("hello\r");
    terminal.expect("got hello");
    terminal.expect("prompt> ");
    terminal.send(&format!("{command} &\r"));
    terminal.expect("prompt> ");
    std::thread::sleep(Duration::from_millis(300));
    terminal.send("jo''bs\r");
    terminal.expect("Stopped");
    terminal.expect("prompt> ");
    terminal.send("fg; echo st''atus $?\r");
    terminal.expect("ready");
    std::thread::sleep(Duration::from_millis(300));
    terminal.send("again\r");
    terminal.expect("got again");
    terminal.expect("status 3");
    terminal.send("exit\r");
    terminal.end();
}

/// The only child of `pid`.
fn only_child(pid: Pid) -> Pid {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap())
}
