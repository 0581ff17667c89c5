//! Descriptors, pid files, sockets: what a runtime hands on and what it must not.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Call, Ctx, Ran};
use crate::{ensure, ensure_eq, sys};

pub const CASES: &[Case] = &[
    Case::new(
        "c3_no_descriptor_leaks",
        "security.md C3: only 0, 1 and 2 are open, whatever the caller had open",
        c3,
    ),
    Case::new("c3_exec", "security.md C3: the same for exec", c3_exec),
    Case::new(
        "c3_cwd_through_descriptor",
        "security.md C3: cwd through /proc/self/fd reaches nothing",
        c3_cwd,
    ),
    Case::new("preserve_fds", "peers.md A1.2: --preserve-fds hands on that many from 3", preserve),
    Case::new(
        "d10_preserve_fds_gap",
        "security.md D10: a preserved descriptor that is not open is an error",
        gap,
    ),
    Case::new(
        "d10_listen_fds",
        "security.md D10: LISTEN_FDS that is no small number is no reason to leak",
        d10_listen,
    ),
    Case::new("listen_fds", "peers.md A1.2: LISTEN_FDS are handed on, LISTEN_PID is the process", listen_fds),
    Case::new(
        "notify_socket",
        "peers.md A1.2: NOTIFY_SOCKET: READY=1 from the process reaches the caller",
        notify,
    ),
    Case::new(
        "pid_file",
        "peers.md A1.2: --pid-file holds the init process's pid, without a newline",
        pid_file,
    ),
    Case::new(
        "g10_pid_file_symlink",
        "security.md G10: a symlink at the pid file is not followed",
        g10_pid_file,
    ),
    Case::new(
        "d9_closed_descriptors",
        "security.md D9: closed standard descriptors never become internal ones",
        d9,
    ),
    Case::new("d3_stdio_owner", "security.md D3: owner and mode of the caller's stdio are unchanged", d3),
    Case::new(
        "console_socket",
        "runtime.md, create: the terminal's master goes to --console-socket",
        console_socket,
    ),
    Case::new("console_size", "config.md, process: consoleSize is the size of the terminal", console_size),
    Case::new(
        "console_socket_needed",
        "peers.md A1.2: create with a terminal needs --console-socket",
        console_needed,
    ),
    Case::new(
        "console_socket_unwanted",
        "peers.md A1.2: --console-socket without a terminal is an error",
        unwanted,
    ),
    Case::new(
        "d5_console_socket_paths",
        "security.md D5: long paths work, files that are no sockets are errors",
        d5,
    ),
    Case::new(
        "exec_console_socket",
        "peers.md A1.2: exec --tty --detach sends its terminal too",
        exec_console,
    ),
];

/// Opens what a careless caller may have open: directories, sockets, an epoll instance.
fn careless(call: Call) -> Outcome<(Call, Vec<OwnedFd>)> {
    let mut kept: Vec<OwnedFd> = vec![
        fs::File::open("/")?.into(),
        fs::File::open("/etc")?.into(),
        UnixDatagram::unbound()?.into(),
        sys::epoll_fd()?,
    ];
    for _ in 4..48 {
        kept.push(fs::File::open("/")?.into());
    }
    let numbers: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    let call = call.setup(|setup| setup.fds = numbers.into_iter().zip(3..).collect());
    Ok((call, kept))
}

fn numbers(report: &Value) -> Vec<String> {
    let mut list: Vec<i32> = report["fds"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(number, _)| number.parse().ok())
        .collect();
    list.sort_unstable();
    list.iter().map(ToString::to_string).collect()
}

fn c3(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    let (call, _kept) = careless(bundle.run_call(ctx, &[])?)?;
    ensure_eq!(numbers(&call.run()?.ok()?.json()?), ["0", "1", "2"], "descriptors after run");
    let bundle = ctx.bundle()?;
    let (call, _kept) = careless(bundle.create_call(ctx, &[])?)?;
    let created = call.run()?.ok()?;
    let (call, _kept) = careless(ctx.call(["start", &bundle.id]))?;
    call.run()?.ok()?;
    let report =
        crate::harness::eventually("the report", Duration::from_secs(60), || Ok(created.json().ok()))?;
    ensure_eq!(numbers(&report), ["0", "1", "2"], "descriptors after create and start");
    Ok(())
}

fn c3_exec(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let (call, _kept) = careless(container.exec_call(&[], &["report"]))?;
    ensure_eq!(numbers(&call.run()?.ok()?.json()?), ["0", "1", "2"], "descriptors");
    Ok(())
}

fn c3_cwd(ctx: &Ctx) -> Outcome {
    for number in 3..24 {
        let mut bundle = ctx.bundle()?;
        bundle.set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        let (call, _kept) = careless(bundle.run_call(ctx, &[])?)?;
        let ran = call.run()?;
        if ran.status == 0 {
            let cwd = ran.json()?["cwd"].as_str().unwrap_or_default().to_owned();
            ensure!(cwd == "/" || cwd.starts_with("/proc"), "descriptor {number}: cwd is {cwd}");
        }
    }
    Ok(())
}

/// A file for each number, to be told apart inside.
fn numbered(ctx: &Ctx, count: i32) -> Outcome<Vec<OwnedFd>> {
    (0..count)
        .map(|number| {
            let path = ctx.path(&format!("preserved-{number}"));
            fs::write(&path, "")?;
            Ok(fs::File::open(path)?.into())
        })
        .collect()
}

fn hand_over(call: Call, files: &[OwnedFd]) -> Call {
    let pairs = files.iter().map(AsRawFd::as_raw_fd).zip(3..).collect();
    call.setup(|setup| setup.fds = pairs)
}

fn preserve(ctx: &Ctx) -> Outcome {
    let files = numbered(ctx, 3)?;
    let bundle = ctx.bundle()?;
    let report = hand_over(bundle.run_call(ctx, &["--preserve-fds", "2"])?, &files).run()?.ok()?.json()?;
    ensure_eq!(numbers(&report), ["0", "1", "2", "3", "4"], "descriptors with --preserve-fds 2");
    for (number, name) in [("3", "preserved-0"), ("4", "preserved-1")] {
        let target = report["fds"][number].as_str().unwrap_or_default();
        ensure!(target.contains(name), "descriptor {number} is {target}");
    }
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let call = container.exec_call(&["--preserve-fds", "1"], &["report"]);
    let report = hand_over(call, &files).run()?.ok()?.json()?;
    ensure_eq!(numbers(&report), ["0", "1", "2", "3"], "descriptors of exec with --preserve-fds 1");
    Ok(())
}

fn gap(ctx: &Ctx) -> Outcome {
    let files = numbered(ctx, 1)?;
    let bundle = ctx.bundle()?;
    hand_over(bundle.run_call(ctx, &["--preserve-fds", "5"])?, &files)
        .run()?
        .exits(1)?
        .fails_in_one_line()?;
    Ok(())
}

/// A call with LISTEN_PID set to the runtime's own pid, which only a shell that becomes it can know.
fn with_listen_pid(ctx: &Ctx, bundle: &Bundle, count: &str) -> Outcome<Call> {
    bundle.write()?;
    let script = r#"LISTEN_PID=$$ exec "$@""#;
    let call = ctx.program(std::path::Path::new("/bin/sh")).args(["-c", script, "sh"]);
    let call = call.arg(&ctx.runtime).arg("--root").arg(&ctx.root).args(["run", "--bundle"]);
    Ok(call.arg(&bundle.dir).arg(&bundle.id).env("LISTEN_FDS", count))
}

fn listen_fds(ctx: &Ctx) -> Outcome {
    let files = numbered(ctx, 2)?;
    let bundle = ctx.bundle()?;
    let report = hand_over(with_listen_pid(ctx, &bundle, "2")?, &files).run()?.ok()?.json()?;
    ensure_eq!(numbers(&report), ["0", "1", "2", "3", "4"], "descriptors");
    let env: Vec<&str> = report["env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(env.contains(&"LISTEN_FDS=2"), "LISTEN_FDS is missing in {env:?}");
    ensure!(env.contains(&"LISTEN_PID=1"), "LISTEN_PID is not the process's in {env:?}");
    Ok(())
}

fn d10_listen(ctx: &Ctx) -> Outcome {
    for count in ["-1", "3x", "1000000000", "4294967296", ""] {
        let bundle = ctx.bundle()?;
        let ran = with_listen_pid(ctx, &bundle, count)?.run()?;
        if ran.status == 0 {
            ensure_eq!(numbers(&ran.json()?), ["0", "1", "2"], "descriptors with LISTEN_FDS={count}");
        } else {
            ran.fails_in_one_line().during(format!("LISTEN_FDS={count}"))?;
        }
    }
    Ok(())
}

fn notify(ctx: &Ctx) -> Outcome {
    let path = ctx.path("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["notify"]);
    bundle.write()?;
    let call = bundle.create_call(ctx, &[])?.env("NOTIFY_SOCKET", &path);
    call.run()?.ok()?;
    let running = ctx.call(["start", &bundle.id]).env("NOTIFY_SOCKET", &path).spawn()?;
    let mut buffer = [0u8; 256];
    let length = socket.recv(&mut buffer).during("a message on NOTIFY_SOCKET")?;
    let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
    running.wait()?.ok()?;
    ensure!(message.contains("READY=1"), "the message is {message:?}");
    Ok(())
}

fn pid_file(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let file = ctx.path("pid");
    bundle.create_call(ctx, &["--pid-file", &file.display().to_string()])?.run()?.ok()?;
    let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
    ensure_eq!(fs::read_to_string(&file)?, state["pid"].to_string(), "pid file");
    let mut other = ctx.bundle()?;
    other.probe(["sleep"]);
    other.create_call(ctx, &["--pid-file", "/no/such/dir/pid"])?.run()?.exits(1)?.fails()?;
    let state = ctx.call(["state", &other.id]).run()?;
    ensure!(state.status != 0, "a create that failed at its pid file left a container");
    Ok(())
}

fn g10_pid_file(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let (target, link) = (ctx.path("target"), ctx.path("link"));
    fs::write(&target, "canary")?;
    std::os::unix::fs::symlink(&target, &link)?;
    let call = bundle.create_call(ctx, &["--pid-file", &link.display().to_string()])?;
    call.setup(|setup| setup.umask = Some(0)).run()?.ok()?;
    ensure_eq!(fs::read_to_string(&target)?, "canary", "the symlink's target");
    let found = fs::symlink_metadata(&link)?;
    ensure!(found.is_file(), "the pid file is still a symlink");
    ensure!(
        found.permissions().mode() & 0o022 == 0,
        "the pid file has mode {:o}",
        found.permissions().mode()
    );
    Ok(())
}

fn d9(ctx: &Ctx) -> Outcome {
    for mask in 0..8 {
        let mut bundle = ctx.bundle()?;
        let log = bundle.dir.join("log");
        fs::create_dir(&log)?;
        bundle.mount("/log", "bind", &log.display().to_string(), &["bind"]);
        bundle.probe(["hook", "/log/log", r#"{"ignoreStdin":true}"#]);
        let closed: Vec<i32> = (0..3).filter(|number| mask & (1 << number) != 0).collect();
        let call = bundle.run_call(ctx, &[])?.setup(|setup| setup.close.clone_from(&closed));
        call.run()?.exits(0).during(format!("descriptors {closed:?} closed"))?;
        let text = fs::read_to_string(log.join("log"))?;
        let entry: Value = serde_json::from_str(text.trim())?;
        for number in closed {
            let target = entry["fds"][number.to_string()].as_str().unwrap_or("closed").to_owned();
            let plain = target == "/dev/null" || target == "closed" || target.starts_with("pipe:");
            ensure!(plain, "descriptor {number}, closed by the caller, is {target}");
        }
        let extra: Vec<String> = numbers(&entry)
            .into_iter()
            .filter(|number| !["0", "1", "2"].contains(&number.as_str()))
            .collect();
        ensure!(extra.is_empty(), "further descriptors {extra:?}");
    }
    Ok(())
}

fn d3(ctx: &Ctx) -> Outcome {
    let out = ctx.path("own-output");
    fs::write(&out, "")?;
    fs::set_permissions(&out, fs::Permissions::from_mode(0o600))?;
    let look = |path: &std::path::Path| -> Outcome<(u32, u32, u32)> {
        use std::os::unix::fs::MetadataExt;
        let data = fs::metadata(path)?;
        Ok((data.mode(), data.uid(), data.gid()))
    };
    let null = std::path::Path::new("/dev/null");
    let before = (look(&out)?, look(null)?);
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let (file, null_fd) = (fs::OpenOptions::new().write(true).open(&out)?, fs::File::open(null)?);
    let pairs = vec![(null_fd.as_raw_fd(), 0), (file.as_raw_fd(), 1), (file.as_raw_fd(), 2)];
    bundle.run_call(ctx, &["--detach"])?.own_stdio().setup(|setup| setup.fds = pairs).run()?.ok()?;
    let after = (look(&out)?, look(null)?);
    ensure_eq!(after.1, before.1, "/dev/null");
    ensure_eq!(after.0, before.0, "a regular file as standard output");
    Ok(())
}

/// Creates with a console socket and returns the master that arrives.
fn receive(ctx: &Ctx, call: impl FnOnce(&str) -> Outcome<Call>) -> Outcome<OwnedFd> {
    let path = ctx.path("console");
    let listener = UnixListener::bind(&path)?;
    let running = call(&path.display().to_string())?.spawn()?;
    listener.set_nonblocking(true)?;
    let stream = crate::harness::eventually("a connection", Duration::from_secs(60), || {
        Ok(listener.accept().ok().map(|(stream, _)| stream))
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    use std::os::fd::AsFd;
    let (_, master) = sys::receive_fd(stream.as_fd())?;
    running.wait()?.ok()?;
    Ok(master)
}

fn terminal_bundle(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/terminal", json!(true)).probe(["terminal"]);
    Ok(bundle)
}

fn console_socket(ctx: &Ctx) -> Outcome {
    let bundle = terminal_bundle(ctx)?;
    let master = receive(ctx, |path| bundle.create_call(ctx, &["--console-socket", path]))?;
    ctx.call(["start", &bundle.id]).run()?.ok()?;
    let mut terminal = crate::terminal::Terminal::of(master);
    terminal.expect("size 0x0")?;
    terminal.send("hello\n")?;
    terminal.expect("line hello")?;
    terminal.resize(90, 33)?;
    terminal.expect("size 90x33")?;
    let found = ctx.call(["exec", &bundle.id, "/probe", "report"]).run()?.ok()?.json()?;
    ensure_eq!(found["devices"]["console"]["type"], json!("character device"), "/dev/console");
    let device = found["devices"]["console"]["device"].as_str().unwrap_or_default().to_owned();
    ensure!(device.starts_with("136:"), "/dev/console is {device}");
    Ok(())
}

fn console_size(ctx: &Ctx) -> Outcome {
    let mut bundle = terminal_bundle(ctx)?;
    bundle.set("/process/consoleSize", json!({"width": 123, "height": 45}));
    let master = receive(ctx, |path| bundle.create_call(ctx, &["--console-socket", path]))?;
    ctx.call(["start", &bundle.id]).run()?.ok()?;
    crate::terminal::Terminal::of(master).expect("size 123x45").map(drop)
}

fn console_needed(ctx: &Ctx) -> Outcome {
    terminal_bundle(ctx)?.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn unwanted(ctx: &Ctx) -> Outcome {
    let path = ctx.path("console");
    let _listener = UnixListener::bind(&path)?;
    let flag = path.display().to_string();
    ctx.bundle()?.create_call(ctx, &["--console-socket", &flag])?.run()?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn d5(ctx: &Ctx) -> Outcome {
    let file = ctx.path("plain");
    fs::write(&file, "")?;
    for path in [file.display().to_string(), "/no/such/socket".to_owned()] {
        let call = terminal_bundle(ctx)?.create_call(ctx, &["--console-socket", &path])?;
        call.run()?.exits(1).and_then(Ran::fails_in_one_line).during(&path)?;
    }
    let left = crate::leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

fn exec_console(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let master = receive(ctx, |path| {
        Ok(container.exec_call(&["--tty", "--detach", "--console-socket", path], &["terminal"]))
    })?;
    let mut terminal = crate::terminal::Terminal::of(master);
    terminal.send("hello\n")?;
    terminal.expect("line hello")?;
    Ok(())
}
