//! The probe: what runs as the container's process, as an exec process and as a hook. It looks at its surroundings,
//! tries things, and prints what it found as JSON. It is the same statically linked program as the test suite, so a
//! rootfs that holds only this file is enough.

pub mod actions;
pub mod report;
pub mod watch;

use std::fs;
use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::{ForkResult, getpid};
use serde_json::{Value, json};

use crate::failure::{During, Failure, Outcome};
use crate::sys;

/// Runs one probe command; the result is the exit status.
pub fn run(arguments: &[String]) -> i32 {
    match command(arguments) {
        Ok(status) => status,
        Err(Failure::Failed(text) | Failure::Skipped(text)) => {
            eprintln!("probe: {text}");
            99
        }
    }
}

fn command(arguments: &[String]) -> Outcome<i32> {
    let text = |index: usize| arguments.get(index).map_or("", String::as_str);
    match text(0) {
        "report" => say(&report::report()),
        "actions" => say(&actions::perform_all(&serde_json::from_str(text(1)).during("actions")?)),
        "demo" => crate::demo::inside(text(1)),
        "args" => say(&json!({"args": arguments, "env": report::environment()})),
        "true" => Ok(0),
        "exit" => Ok(text(1).parse()?),
        "echo" => {
            println!("{}", arguments[1..].join(" "));
            Ok(0)
        }
        "sleep" => sleep(text(1).parse().unwrap_or(86_400)),
        "cat" => {
            let mut input = Vec::new();
            std::io::stdin().read_to_end(&mut input)?;
            std::io::stdout().write_all(&input)?;
            Ok(0)
        }
        "trap" => trap(),
        "exit-by-signal" => {
            sys::send_signal(getpid(), text(1).parse()?)?;
            sleep(5)
        }
        "burn" => burn(Duration::from_millis(text(1).parse()?)),
        "orphan" => orphan(),
        "watch" => watch::watch(text(1)),
        "bomb" => bomb(),
        "flood" => flood(),
        "terminal" => terminal(),
        "notify" => notify(),
        "hook" => hook(text(1), text(2)),
        other => Err(Failure::new(format!("unknown probe command {other:?}"))),
    }
}

fn say(value: &Value) -> Outcome<i32> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(0)
}

fn sleep(seconds: u64) -> Outcome<i32> {
    println!("ready");
    std::thread::sleep(Duration::from_secs(seconds));
    Ok(0)
}

/// Prints every signal that arrives; SIGUSR2 ends it with status 7.
fn trap() -> Outcome<i32> {
    let numbers: Vec<i32> = (1..=64).filter(|number| ![9, 19, 32, 33].contains(number)).collect();
    let fd = sys::signal_fd(&numbers)?;
    println!("ready");
    loop {
        // A signalfd_siginfo is 128 bytes and starts with the signal's number (signalfd(2)).
        let mut info = [0u8; 128];
        nix::unistd::read(&fd, &mut info)?;
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        println!("signal {number}");
        if number == 12 {
            return Ok(7);
        }
    }
}

/// Uses the processor for a while.
fn burn(span: Duration) -> Outcome<i32> {
    let start = Instant::now();
    let mut sum = 0u64;
    while start.elapsed() < span {
        for number in 0..20_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
    }
    Ok(0)
}

/// Forks for ever, and each child too.
fn bomb() -> Outcome<i32> {
    println!("ready");
    loop {
        // Where there may be no more, it tries again.
        let _forked = sys::fork();
    }
}

/// Writes for ever.
fn flood() -> Outcome<i32> {
    let line = [b'x'; 4095];
    loop {
        std::io::stdout().write_all(&line)?;
        std::io::stdout().write_all(b"\n")?;
    }
}

/// Leaves a grandchild behind and goes on itself.
fn orphan() -> Outcome<i32> {
    if let ForkResult::Child = sys::fork()? {
        if let ForkResult::Child = sys::fork()? {
            std::thread::sleep(Duration::from_secs(86_400));
        }
        sys::exit_now(0);
    }
    sleep(86_400)
}

/// A tiny interactive program: prints the terminal's size now and whenever it changes, answers lines, and ends on
/// `exit N`.
fn terminal() -> Outcome<i32> {
    let size = || match sys::terminal_size(std::io::stdin().as_fd()) {
        Ok((columns, rows)) => format!("size {columns}x{rows}"),
        Err(errno) => format!("no terminal: {errno}"),
    };
    let fd = sys::signal_fd(&[libc::SIGWINCH])?;
    if let ForkResult::Child = sys::fork()? {
        // Here, so that whoever has read it can rely on every later change being told: a signal of before the fork is the
        // parent's alone (fork(2)), and a signalfd gives its reader's own (signalfd(2)).
        println!("{}", size());
        loop {
            let mut info = [0u8; 128];
            nix::unistd::read(&fd, &mut info)?;
            println!("{}", size());
        }
    }
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if let Some(status) = line.strip_prefix("exit ") {
            return Ok(status.trim().parse()?);
        }
        println!("line {line}");
    }
    println!("end of input");
    Ok(0)
}

/// Tells the service manager that it is ready (sd_notify(3)), then stays.
fn notify() -> Outcome<i32> {
    let path = std::env::var("NOTIFY_SOCKET").during("NOTIFY_SOCKET")?;
    std::os::unix::net::UnixDatagram::unbound()?.send_to(b"READY=1", path)?;
    sleep(86_400)
}

/// As a hook: reads the state on standard input and appends one line to `log`, then does what `plan` says.
fn hook(log: &str, plan: &str) -> Outcome<i32> {
    let plan: Value = serde_json::from_str(plan).during("plan of a hook")?;
    let mut input = String::new();
    if plan["ignoreStdin"] != true {
        std::io::stdin().read_to_string(&mut input)?;
    }
    let entry = json!({
        "name": plan["name"],
        "state": serde_json::from_str::<Value>(&input).unwrap_or(Value::String(input)),
        "env": report::environment(),
        "cwd": report::working_directory(),
        "fds": report::descriptors(),
        "namespaces": report::namespaces(),
        "signals": report::signals(),
        "probeAtRoot": fs::metadata("/probe").is_ok(),
    });
    let mut file =
        fs::OpenOptions::new().create(true).append(true).open(log).during(format!("open {log}"))?;
    file.write_all(format!("{entry}\n").as_bytes())?;
    if let Some(text) = plan["stderr"].as_str() {
        eprintln!("{text}");
    }
    if plan["child"] == true
        && let ForkResult::Child = sys::fork()?
    {
        std::thread::sleep(Duration::from_secs(86_400));
    }
    if let Some(seconds) = plan["sleep"].as_u64() {
        std::thread::sleep(Duration::from_secs(seconds));
    }
    Ok(i32::try_from(plan["exit"].as_i64().unwrap_or(0))?)
}
