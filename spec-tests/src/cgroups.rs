//! The cgroup hierarchies of this machine, by whatever version each controller has.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{During, Outcome};

/// One mounted hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// 1 or 2.
    pub version: u8,
    /// The controllers of a version 1 hierarchy (or its name), those available in a version 2 one.
    pub controllers: Vec<String>,
}

/// Every hierarchy that is mounted.
pub fn hierarchies() -> Outcome<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in text.lines() {
        let Some(mount) = crate::inside::report::mount_line(line) else { continue };
        let target = PathBuf::from(mount["target"].as_str().unwrap_or_default());
        // A bind mount of a part of a hierarchy is not the hierarchy.
        if mount["root"] != "/" {
            continue;
        }
        match mount["type"].as_str() {
            Some("cgroup") => {
                let options = mount["superOptions"].as_str().unwrap_or_default();
                let controllers = options.split(',').skip(1).map(str::to_owned).collect();
                found.push(Hierarchy { mount: target, version: 1, controllers });
            }
            Some("cgroup2") => {
                let text = fs::read_to_string(target.join("cgroup.controllers")).unwrap_or_default();
                let controllers = text.split_whitespace().map(str::to_owned).collect();
                found.push(Hierarchy { mount: target, version: 2, controllers });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The hierarchy that has a controller.
pub fn with_controller(controller: &str) -> Outcome<Hierarchy> {
    hierarchies()?
        .into_iter()
        .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
        .during(format!("a hierarchy with the controller {controller}"))
}

/// The file of a cgroup under the name that its version has for it, trimmed.
pub fn read(cgroup: &str, controller: &str, v1: &str, v2: &str) -> Outcome<String> {
    let hierarchy = with_controller(controller)?;
    let name = if hierarchy.version == 1 { v1 } else { v2 };
    let path = hierarchy.mount.join(cgroup.trim_start_matches('/')).join(name);
    Ok(fs::read_to_string(&path).during(format!("read {}", path.display()))?.trim().to_owned())
}

/// Every cgroup directory, in all hierarchies, whose path contains `text`, children first.
pub fn containing(text: &str) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        collect(&hierarchy.mount, text, &mut found);
    }
    Ok(found)
}

fn collect(dir: &Path, text: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            collect(&path, text, found);
            if path.to_string_lossy().contains(text) {
                found.push(path);
            }
        }
    }
}
