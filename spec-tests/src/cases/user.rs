//! Rootless with a delegated subtree: a user without privileges, whose own systemd makes the scope (runc's docs/cgroup-v2.md,
//! rootless). On a run without `--systemd-cgroup`, and where no such systemd runs, these are skipped.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome, skip};
use crate::harness::{Bundle, Call, Ctx, Ran};
use crate::{cgroups, ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "systemd_of_a_user",
        "peers.md A2 and B 41: a user's own systemd makes the scope; its limits hold through update and daemon-reload",
        limits,
    )
    .alone(),
    Case::new(
        "systemd_of_a_user_no_slice_of_others",
        "peers.md A2: a user's containers are in the user's own slices only",
        slices,
    ),
];

/// A user whose systemd runs, with the directory that is its `XDG_RUNTIME_DIR`.
struct User<'c> {
    ctx: &'c Ctx,
    uid: u32,
    gid: u32,
    runtime_dir: PathBuf,
}

impl<'c> User<'c> {
    fn any(ctx: &'c Ctx) -> Outcome<Self> {
        if !ctx.systemd {
            return skip("not a run with --systemd-cgroup");
        }
        for entry in fs::read_dir("/run/user").into_iter().flatten().flatten() {
            let runtime_dir = entry.path();
            let owner = fs::metadata(&runtime_dir)?;
            if owner.uid() != 0 && runtime_dir.join("systemd/private").exists() {
                return Ok(Self { ctx, uid: owner.uid(), gid: owner.gid(), runtime_dir });
            }
        }
        skip("no user has a systemd of its own here")
    }

    /// The runtime with a state root of the user's, started by the user's systemd: only what is in its subtree already may
    /// be moved there.
    fn runtime(&self, arguments: &[&str]) -> Outcome<Ran> {
        let run = self.as_user(Path::new("/usr/bin/systemd-run"));
        let run = run.args(["--quiet", "--user", "--wait", "--pipe", "--collect", "--"]);
        run.arg(&self.ctx.runtime)
            .arg("--root")
            .arg(self.root())
            .arg("--systemd-cgroup")
            .args(arguments)
            .run()
    }

    fn as_user(&self, program: &Path) -> Call {
        let call = self.ctx.program(program).env("XDG_RUNTIME_DIR", &self.runtime_dir);
        call.setup(|child| child.uid = Some((self.uid, self.gid)))
    }

    fn root(&self) -> PathBuf {
        self.runtime_dir.join(&self.ctx.tag)
    }

    fn systemctl(&self, arguments: &[&str]) -> Outcome<String> {
        let call = self.as_user(Path::new("/usr/bin/systemctl")).arg("--user");
        Ok(call.args(arguments).run()?.ok()?.stdout().trim().to_owned())
    }

    /// A bundle of the user's, as `spec --rootless` has it: a user namespace where the user is root.
    fn bundle(&self) -> Outcome<Bundle> {
        let mut bundle = self.ctx.bundle()?;
        let one = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        bundle.push("/linux/namespaces", json!({"type": "user"}));
        bundle.set("/linux/uidMappings", one(self.uid)).set("/linux/gidMappings", one(self.gid));
        bundle.unmount("/dev/pts").remove("/linux/cgroupsPath").remove("/linux/resources/devices");
        bundle.probe(["sleep"]);
        Ok(bundle)
    }

    fn give(&self, bundle: &Bundle) -> Outcome {
        bundle.write()?;
        for path in [bundle.dir.clone(), bundle.rootfs(), bundle.dir.join("config.json")] {
            chown(&path, Some(self.uid), Some(self.gid)).during(path.display())?;
        }
        Ok(())
    }

    fn run_detached(&self, bundle: &Bundle) -> Outcome {
        self.give(bundle)?;
        let dir = bundle.dir.to_string_lossy();
        self.runtime(&["run", "--detach", "--bundle", &dir, &bundle.id])?.ok().map(drop)
    }

    fn delete(&self, bundle: &Bundle) -> Outcome {
        self.runtime(&["delete", "--force", &bundle.id])?.ok().map(drop)
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        for id in self.ctx.named() {
            let _gone = self.runtime(&["delete", "--force", &id]);
        }
        let _removed = fs::remove_dir(self.root());
    }
}

/// Where the container's scope is, of which there is one.
fn scope_of(id: &str) -> Outcome<PathBuf> {
    let unit = format!("skeg-{id}.scope");
    let found: Vec<PathBuf> =
        cgroups::containing(id)?.into_iter().filter(|path| path.ends_with(&unit)).collect();
    ensure_eq!(found.len(), 1, "{unit} in {found:?}");
    found.into_iter().next().during(unit)
}

fn limits(ctx: &Ctx) -> Outcome {
    let user = User::any(ctx)?;
    let mut bundle = user.bundle()?;
    bundle.set(
        "/linux/resources",
        json!({
            "memory": {"limit": 64 << 20, "reservation": 32 << 20},
            "cpu": {"quota": 50_000, "period": 100_000},
            "pids": {"limit": 77}
        }),
    );
    user.run_detached(&bundle)?;
    let scope = scope_of(&bundle.id)?;
    let own = format!("user-{0}.slice/user@{0}.service/user.slice/", user.uid);
    ensure!(scope.to_string_lossy().contains(&own), "scope {}", scope.display());
    let shown = |name: &str| -> Outcome<Value> {
        Ok(json!(fs::read_to_string(scope.join(name)).during(name)?.trim()))
    };
    let all = || -> Outcome<Value> {
        let names = ["memory.max", "memory.low", "cpu.max", "pids.max"];
        names.into_iter().map(shown).collect()
    };
    ensure_eq!(all()?, json!(["67108864", "33554432", "50000 100000", "77"]), "limits of run");
    user.runtime(&["update", "--memory", "50331648", "--pids-limit", "55", &bundle.id])?.ok()?;
    let updated = json!(["50331648", "33554432", "50000 100000", "55"]);
    ensure_eq!(all()?, updated, "limits of update");
    let unit = format!("skeg-{}.scope", bundle.id);
    user.systemctl(&["daemon-reload"])?;
    user.systemctl(&["set-property", "--runtime", &unit, "CPUWeight=123"])?;
    ensure_eq!(user.systemctl(&["show", "--value", "-p", "TasksMax", &unit])?, "55", "TasksMax");
    ensure_eq!(all()?, updated, "limits after daemon-reload and set-property");
    let inside = user.runtime(&["exec", &bundle.id, "/probe", "report"])?.ok()?.json()?;
    ensure_eq!(inside["uid"], json!(0), "the user of an exec process");
    user.runtime(&["pause", &bundle.id])?.ok()?;
    ensure_eq!(shown("cgroup.freeze")?, json!("1"), "cgroup.freeze when paused");
    user.runtime(&["resume", &bundle.id])?.ok()?;
    user.delete(&bundle)?;
    let left = cgroups::containing(&bundle.id)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure_eq!(user.systemctl(&["show", "--value", "-p", "LoadState", &unit])?, "not-found", "the unit");
    Ok(())
}

fn slices(ctx: &Ctx) -> Outcome {
    let user = User::any(ctx)?;
    let mut bundle = user.bundle()?;
    let name = bundle.id.replace('-', "_");
    bundle.set("/linux/cgroupsPath", json!(format!("{name}.slice:skeg:{}", bundle.id)));
    user.run_detached(&bundle)?;
    let scope = scope_of(&bundle.id)?;
    let own = format!("user@{}.service/{name}.slice/", user.uid);
    ensure!(scope.to_string_lossy().contains(&own), "scope {}", scope.display());
    user.delete(&bundle)?;
    user.systemctl(&["stop", &format!("{name}.slice")]).map(drop)
}
