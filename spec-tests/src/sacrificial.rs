//! Fixture T1: a host to be sacrificed. A pid and a mount namespace whose root is a small tmpfs, shared, with
//! canaries in it; the case runs the runtime inside. Afterwards the whole tree and the mount table must be as they
//! were, so that a runtime that fails a case damages nothing but the canaries.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use serde_json::{Value, json};

use crate::cases::Case;
use crate::failure::{During, Failure, Outcome};
use crate::harness::Ctx;
use crate::{ensure, leftovers, policy, sys};

/// Where the case's own files are inside; everything else must not change.
const CASE_DIR: &str = "/case";
/// What must not be touched.
pub const CANARY: &str = "/canary";

/// Runs a case inside a host of its own.
pub fn run(case: &Case, ctx: &Ctx) -> Outcome {
    let (mut reader, writer) = std::io::pipe()?;
    let ForkResult::Parent { child } = sys::fork()? else {
        drop(reader);
        let outcome = with_parent().and_then(|()| in_new_namespaces(case, ctx, &writer));
        report(&writer, &outcome);
        sys::exit_now(0);
    };
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    waitpid(child, None)?;
    let value: Value = serde_json::from_str(text.lines().next().unwrap_or_default())
        .during("the sacrificial host ended without a result")?;
    let said = value["text"].as_str().unwrap_or_default().to_owned();
    match value["result"].as_str() {
        Some("ok") => Ok(()),
        Some("skipped") => Err(Failure::Skipped(said)),
        _ => Err(Failure::Failed(said)),
    }
}

/// A case that is over its time is killed, and what it runs with it.
fn with_parent() -> Outcome {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).during("set the parent-death signal")
}

fn report(mut writer: &std::io::PipeWriter, outcome: &Outcome) {
    let value = match outcome {
        Ok(()) => json!({"result": "ok"}),
        Err(Failure::Skipped(text)) => json!({"result": "skipped", "text": text}),
        Err(Failure::Failed(text)) => json!({"result": "failed", "text": text}),
    };
    let _told = writer.write_all(format!("{value}\n").as_bytes());
}

/// Unshares, then forks the process that is 1 in the new pid namespace: its end ends everything inside.
fn in_new_namespaces(case: &Case, ctx: &Ctx, writer: &std::io::PipeWriter) -> Outcome {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).during("unshare")?;
    match sys::fork()? {
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            sys::exit_now(0);
        }
        ForkResult::Child => {
            let outcome = with_parent().and_then(|()| inside(case, ctx));
            report(writer, &outcome);
            sys::exit_now(0);
        }
    }
}

fn inside(case: &Case, outer: &Ctx) -> Outcome {
    let runtime = build_host(outer).during("build the sacrificial host")?;
    let probe = Path::new("/opt/probe");
    let ctx = Ctx::new(&runtime, &outer.kind, Path::new(CASE_DIR), &outer.tag, probe, outer.soak)?
        .patient(outer.patience);
    let before = (tree()?, mount_table()?);
    let outcome = (case.run)(&ctx);
    let _refused = ctx.delete_all();
    let left = leftovers::of_case(&ctx)?;
    let after = (tree()?, mount_table()?);
    outcome?;
    let changes = difference(&before.0, &after.0);
    ensure!(changes.is_empty(), "the host's files changed: {}", changes.join("; "));
    let changes = difference(&before.1, &after.1);
    ensure!(changes.is_empty(), "the host's mounts changed: {}", changes.join("; "));
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

/// Makes the new root and goes there; the path of the runtime inside.
fn build_host(outer: &Ctx) -> Outcome<PathBuf> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let new = outer.dir.join("host");
    fs::create_dir_all(&new)?;
    mount(Some("tmpfs"), &new, Some("tmpfs"), MsFlags::empty(), Some("mode=0755,size=512m"))?;
    for dir in
        ["canary", "case", "dev", "etc", "old", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var"]
    {
        fs::DirBuilder::new().mode(0o755).create(new.join(dir))?;
    }
    fs::set_permissions(new.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    for dir in ["usr", "etc"] {
        bind_read_only(&Path::new("/").join(dir), &new.join(dir))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        match fs::read_link(Path::new("/").join(name)) {
            Ok(target) => symlink(target, new.join(name))?,
            Err(_) if Path::new("/").join(name).exists() => {
                fs::create_dir(new.join(name))?;
                bind_read_only(&Path::new("/").join(name), &new.join(name))?;
            }
            Err(_) => {}
        }
    }
    mount(Some("/sys"), &new.join("sys"), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    mount(Some("proc"), &new.join("proc"), Some("proc"), MsFlags::empty(), none)?;
    make_devices(&new.join("dev"))?;
    let runtime = Path::new("opt").join(outer.runtime.file_name().during("the runtime's file name")?);
    fs::copy(&outer.runtime, new.join(&runtime))?;
    fs::copy(&outer.probe, new.join("opt/probe"))?;
    if let Some(recorder) = std::env::var_os(policy::RECORDER).map(PathBuf::from) {
        let inside = new.join(recorder.strip_prefix("/").during("the recorder's directory")?);
        fs::create_dir_all(&inside)?;
        mount(Some(&recorder), &inside, none, MsFlags::MS_BIND, none)?;
    }
    plant_canaries(&new.join(CANARY.trim_start_matches('/')))?;
    std::env::set_current_dir(&new)?;
    nix::unistd::pivot_root(".", "old")?;
    umount2("/old", MntFlags::MNT_DETACH)?;
    fs::remove_dir("/old")?;
    std::env::set_current_dir("/")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    Ok(Path::new("/").join(runtime))
}

fn bind_read_only(source: &Path, target: &Path) -> Outcome {
    let none = None::<&str>;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    mount(none, target, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)?;
    Ok(())
}

fn make_devices(dev: &Path) -> Outcome {
    let nodes =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in nodes {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), libc::makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    fs::create_dir(dev.join("pts"))?;
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), MsFlags::empty(), options)?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    symlink("/proc/self/fd", dev.join("fd"))?;
    Ok(())
}

/// A file, a directory with a file, an empty directory, and a device node that a chown or chmod would show on.
fn plant_canaries(dir: &Path) -> Outcome {
    fs::write(dir.join("file"), "canary")?;
    fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o640))?;
    fs::create_dir(dir.join("dir"))?;
    fs::write(dir.join("dir/inner"), "inner canary")?;
    fs::create_dir(dir.join("empty"))?;
    mknod(&dir.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o640), libc::makedev(1, 3))?;
    Ok(())
}

/// Every path of the root file system, without the case's own directory and other mounts, and what it is.
fn tree() -> Outcome<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let device = fs::symlink_metadata("/")?.dev();
    walk(Path::new("/"), device, &mut found)?;
    Ok(found)
}

fn walk(dir: &Path, device: u64, found: &mut BTreeMap<String, String>) -> Outcome {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let data = fs::symlink_metadata(&path)?;
        if data.dev() != device || path == Path::new(CASE_DIR) {
            continue;
        }
        let content = if data.is_file() && data.len() < 65_536 { fs::read(&path)? } else { Vec::new() };
        let link = fs::read_link(&path).unwrap_or_default();
        let text = format!(
            "mode {:o} owner {}:{} device {} size {} content {content:?} link {}",
            data.mode(),
            data.uid(),
            data.gid(),
            data.rdev(),
            if data.is_dir() { 0 } else { data.len() },
            link.display()
        );
        found.insert(path.display().to_string(), text);
        if data.is_dir() {
            walk(&path, device, found)?;
        }
    }
    Ok(())
}

fn mount_table() -> Outcome<BTreeMap<String, String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().map(|line| (line.to_owned(), String::new())).collect())
}

fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| format!("gone: {key}"));
    let new = after.keys().filter(|key| !before.contains_key(*key)).map(|key| format!("new: {key}"));
    let changed = before.iter().filter_map(|(key, old)| {
        let now = after.get(key)?;
        (now != old).then(|| format!("changed: {key}: {old} -> {now}"))
    });
    gone.chain(new).chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t1_difference_sees_new_gone_and_changed() {
        let map = |items: &[(&str, &str)]| {
            items
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let before = map(&[("/a", "1"), ("/b", "1")]);
        let after = map(&[("/b", "2"), ("/c", "1")]);
        assert_eq!(difference(&before, &after), ["gone: /a", "new: /c", "changed: /b: 1 -> 2"]);
        assert!(difference(&before, &before).is_empty());
    }
}
