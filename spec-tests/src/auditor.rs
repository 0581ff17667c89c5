//! Fixture T5: what a process of the runtime looks like from the host, by /proc.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::failure::Outcome;

/// One process.
pub struct Audit {
    /// Descriptors: what each refers to and of what kind it is.
    pub descriptors: BTreeMap<i32, (String, &'static str)>,
    /// The name of the executable.
    pub executable_name: String,
    /// The files that executable mappings are of.
    pub mapped: Vec<String>,
    /// The environment, unparsed.
    pub environment: String,
    /// The owner of /proc/PID/fd: root when the process cannot be dumped, else its own user (proc(5)).
    pub owner: u32,
}

/// Looks at a process.
pub fn audit(pid: Pid) -> Outcome<Audit> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let mut descriptors = BTreeMap::new();
    for entry in fs::read_dir(dir.join("fd"))? {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse()?;
        let target = fs::read_link(entry.path()).map(|path| path.display().to_string()).unwrap_or_default();
        let kind = fs::metadata(entry.path()).map_or("gone", |data| match data.file_type() {
            kind if kind.is_dir() => "directory",
            kind if kind.is_file() => "file",
            kind if kind.is_fifo() => "fifo",
            kind if kind.is_socket() => "socket",
            kind if kind.is_char_device() => "character device",
            kind if kind.is_block_device() => "block device",
            _ => "anonymous",
        });
        descriptors.insert(number, (target, kind));
    }
    let maps = fs::read_to_string(dir.join("maps"))?;
    let mapped = maps
        .lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.contains('x')))
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|name| !name.starts_with('['))
        .map(str::to_owned)
        .collect();
    Ok(Audit {
        descriptors,
        executable_name: fs::read_link(dir.join("exe"))?.display().to_string(),
        mapped,
        environment: String::from_utf8_lossy(&fs::read(dir.join("environ"))?).into_owned(),
        owner: fs::metadata(dir.join("fd"))?.uid(),
    })
}
