//! A person at a terminal, and real bundles: busybox and a Debian root with the default configuration unchanged.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::termios::{LocalFlags, tcgetattr};
use serde_json::json;

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx, Running};
use crate::terminal::Terminal;
use crate::{config, ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new("terminal_session", "config.md, process: terminal: input, output and the exit status", session),
    Case::new(
        "terminal_size",
        "config.md, process: terminal: the size is the caller's, and follows it",
        size,
    ),
    Case::new(
        "terminal_interrupt",
        "config.md, process: terminal: Ctrl-C interrupts the program inside",
        interrupt,
    ),
    Case::new("terminal_end_of_input", "config.md, process: terminal: Ctrl-D ends the input", end_of_input),
    Case::new("terminal_restored", "peers.md A1.2: the caller's terminal is as before afterwards", restored),
    Case::new("terminal_exec", "peers.md A1.2: exec --tty", exec),
    Case::new(
        "d4_no_input_pushed",
        "security.md D4: the container cannot push input to the caller's terminal",
        d4,
    ),
    Case::new("d11_own_ptys", "security.md D11: the container sees its own ptys only", d11),
    Case::new(
        "bundle_busybox_shell",
        "config.md, process, terminal: a shell of busybox by hand has job control",
        busybox,
    ),
    Case::new(
        "bundle_debian_shell",
        "bundle.md: a Debian root by hand, with the default configuration",
        debian,
    ),
    Case::new("bundle_of_containerd", "bundle.md: a configuration that containerd wrote", containerd),
    Case::new("bundle_large_output", "peers.md B 50: no output is lost at the end", large_output),
];

fn terminal_bundle(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/terminal", json!(true)).probe(["terminal"]);
    Ok(bundle)
}

fn start(ctx: &Ctx, bundle: &Bundle) -> Outcome<(Terminal, Running)> {
    Terminal::run(bundle.run_call(ctx, &[])?, 80, 24)
}

fn session(ctx: &Ctx) -> Outcome {
    let (mut terminal, running) = start(ctx, &terminal_bundle(ctx)?)?;
    terminal.expect("size")?;
    terminal.send("hello there\r")?;
    terminal.expect("line hello there")?;
    terminal.send("exit 42\r")?;
    terminal.read_to_end()?;
    running.wait()?.exits(42)?;
    Ok(())
}

fn size(ctx: &Ctx) -> Outcome {
    let (mut terminal, running) = start(ctx, &terminal_bundle(ctx)?)?;
    terminal.expect("80x24")?;
    terminal.resize(101, 37)?;
    terminal.expect("size 101x37")?;
    terminal.send("exit 0\r")?;
    terminal.read_to_end()?;
    running.wait()?.ok()?;
    Ok(())
}

fn interrupt(ctx: &Ctx) -> Outcome {
    let mut bundle = terminal_bundle(ctx)?;
    bundle.probe(["trap"]);
    let (mut terminal, running) = start(ctx, &bundle)?;
    terminal.expect("ready")?;
    terminal.send("\u{3}")?;
    terminal.expect("signal 2")?;
    terminal.send("\u{1c}")?;
    terminal.expect("signal 3")?;
    ctx.call(["kill", &bundle.id, "USR2"]).run()?.ok()?;
    terminal.read_to_end()?;
    running.wait()?.exits(7)?;
    Ok(())
}

fn end_of_input(ctx: &Ctx) -> Outcome {
    let (mut terminal, running) = start(ctx, &terminal_bundle(ctx)?)?;
    terminal.expect("size")?;
    terminal.send("\u{4}")?;
    terminal.expect("end of input")?;
    terminal.read_to_end()?;
    running.wait()?.ok()?;
    Ok(())
}

fn restored(ctx: &Ctx) -> Outcome {
    let (mut terminal, running) = start(ctx, &terminal_bundle(ctx)?)?;
    // Held open, so that the settings can be read after the runtime's end.
    let slave = nix::pty::ptsname_r(&nix_master(&terminal)?)?;
    let slave = fs::OpenOptions::new().read(true).write(true).open(slave)?;
    let before = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
    terminal.expect("size")?;
    let during = tcgetattr(&slave)?.local_flags & before;
    terminal.send("exit 3\r")?;
    running.wait()?.exits(3)?;
    let after = tcgetattr(&slave)?.local_flags & before;
    ensure_eq!(during, LocalFlags::empty(), "settings of the caller's terminal meanwhile");
    ensure_eq!(after, before, "settings of the caller's terminal afterwards");
    Ok(())
}

/// The master as the type that can name its other side.
fn nix_master(terminal: &Terminal) -> Outcome<nix::pty::PtyMaster> {
    crate::sys::pty_master(terminal.master().try_clone()?.into()).during("the master")
}

fn exec(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let (mut terminal, running) = Terminal::run(container.exec_call(&["--tty"], &["terminal"]), 70, 20)?;
    terminal.expect("70x20")?;
    terminal.send("through exec\r")?;
    terminal.expect("line through exec")?;
    terminal.send("exit 9\r")?;
    terminal.read_to_end()?;
    running.wait()?.exits(9)?;
    Ok(())
}

fn d4(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.actions(&json!([["push-input", "/proc/self/fd/0"], ["push-input", "/dev/tty"]]));
    let (mut terminal, running) = start(ctx, &bundle)?;
    let shown = terminal.read_to_end()?;
    running.wait()?.ok()?;
    ensure!(!shown.contains(r#"{"ok":null}"#), "input could be pushed: {shown}");
    Ok(())
}

fn d11(ctx: &Ctx) -> Outcome {
    let mut bundle = terminal_bundle(ctx)?;
    bundle.actions(&json!([["list", "/dev/pts"]]));
    let (mut terminal, running) = start(ctx, &bundle)?;
    let shown = terminal.read_to_end()?;
    running.wait()?.ok()?;
    ensure!(shown.contains(r#"{"ok":["0","ptmx"]}"#), "/dev/pts is {shown}");
    Ok(())
}

/// A bundle with the configuration that `spec` writes and this rootfs.
fn unchanged(ctx: &Ctx, rootfs: &Path) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.config = config::default_config();
    config::set(&mut bundle.config, "/root/path", json!(rootfs));
    Ok(bundle)
}

fn busybox(ctx: &Ctx) -> Outcome {
    let program = Path::new("/bin/busybox");
    if !program.exists() {
        return crate::failure::skip("busybox-static is not installed");
    }
    let rootfs = ctx.path("rootfs");
    fs::create_dir_all(rootfs.join("bin"))?;
    fs::copy(program, rootfs.join("bin/busybox"))?;
    for name in ["sh", "cat", "sleep", "ls", "echo", "stty", "hostname"] {
        symlink("busybox", rootfs.join("bin").join(name))?;
    }
    let (mut terminal, running) = start(ctx, &unchanged(ctx, &rootfs)?)?;
    terminal.expect("# ")?;
    shell_session(&mut terminal)?;
    terminal.send("exit 5\r")?;
    terminal.read_to_end()?;
    running.wait()?.exits(5)?;
    Ok(())
}

/// What a person does in a shell with job control.
fn shell_session(terminal: &mut Terminal) -> Outcome {
    terminal.send("echo $((6*7)) $(hostname)\r")?;
    terminal.expect("42 runc")?;
    terminal.send("sleep 1000\r")?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.send("\u{1a}")?;
    terminal.expect("Stopped")?;
    terminal.send("bg; echo in-background-$?\r")?;
    terminal.expect("in-background-0")?;
    terminal.send("fg\r")?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.send("\u{3}")?;
    terminal.send("echo status-$?\r")?;
    terminal.expect("status-130")?;
    terminal.send("ls /dev/console /nothing; echo status-$?\r")?;
    terminal.expect("/nothing")?;
    Ok(())
}

fn debian(ctx: &Ctx) -> Outcome {
    let Some(rootfs) = std::env::var_os("SPEC_TESTS_DEBIAN_ROOT") else {
        return crate::failure::skip("SPEC_TESTS_DEBIAN_ROOT names no Debian root");
    };
    let (mut terminal, running) = start(ctx, &unchanged(ctx, Path::new(&rootfs))?)?;
    terminal.expect("# ")?;
    for (command, expected) in [
        ("sed -n 's/^ID=/id-is-/p' /etc/os-release\r", "id-is-debian"),
        ("id -u; cat /proc/self/comm\r", "cat"),
        ("dpkg-query -W -f '${Package}-is-there' bash\r", "bash-is-there"),
        ("touch /x; echo status-$?\r", "Read-only file system"),
    ] {
        terminal.send(command)?;
        terminal.expect(expected).during(command.trim())?;
    }
    terminal.send("bash -c 'exit 6'; exit $?\r")?;
    terminal.read_to_end()?;
    running.wait()?.exits(6)?;
    Ok(())
}

fn containerd(ctx: &Ctx) -> Outcome {
    crate::cgroups::need(&["memory", "cpu"])?;
    let mut bundle = ctx.bundle()?;
    bundle.config = serde_json::from_str(include_str!("../../data/containerd-config.json"))?;
    // Of what containerd wrote only the names are replaced: the id's own cgroup, and the program of the image.
    bundle.set("/linux/cgroupsPath", json!(ctx.cgroups_path(&bundle.id))).set("/root/path", json!("rootfs"));
    bundle.probe(["report"]);
    let ran = if bundle.config["process"]["terminal"] == true {
        bundle.set("/process/terminal", json!(false));
        bundle.run(ctx)?
    } else {
        bundle.run(ctx)?
    };
    let found = ran.ok()?.json()?;
    ensure_eq!(found["seccomp"]["mode"], json!("2"), "seccomp mode");
    ensure_eq!(found["pid"], json!(1), "pid");
    Ok(())
}

fn large_output(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let text = "0123456789abcdef\n".repeat(1 << 16);
    bundle.probe(["cat"]);
    let ran = bundle.run_call(ctx, &[])?.stdin(&text)?.run()?.ok()?;
    ensure_eq!(ran.stdout().len(), text.trim().len(), "bytes of output");
    Ok(())
}
