//! A process of the container that looks, whenever it is asked, at what it can see of all others in its PID namespace.
//!
//! It is asked by a line in the FIFO `ask` of a directory, and answers with a line of JSON in the FIFO `answer`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::failure::{During, Outcome};

/// Answers until the process is killed.
pub fn watch(dir: &str) -> Outcome<i32> {
    let dir = Path::new(dir);
    // For both, so that no end of file comes between two askers.
    let open = |name: &str| {
        fs::OpenOptions::new().read(true).write(true).open(dir.join(name)).during(format!("open {name}"))
    };
    let (ask, mut answer) = (open("ask")?, open("answer")?);
    println!("ready");
    for line in BufReader::new(ask).lines() {
        line?;
        answer.write_all(format!("{}\n", others()).as_bytes())?;
    }
    Ok(0)
}

/// Each process but this one.
fn others() -> Value {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let pids = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own);
    pids.map(|pid| look(&pid)).collect()
}

fn look(pid: &str) -> Value {
    let dir = Path::new("/proc").join(pid);
    let is_root = |path: &Path| -> std::io::Result<bool> {
        let (found, root) = (fs::metadata(path)?, fs::metadata("/")?);
        Ok((found.dev(), found.ino()) == (root.dev(), root.ino()))
    };
    let mut descriptors = Map::new();
    let listed = fs::read_dir(dir.join("fd")).map(|entries| {
        for entry in entries.flatten() {
            let number = entry.file_name().to_string_lossy().into_owned();
            let link = fs::read_link(entry.path()).unwrap_or_default();
            let is_root = is_root(&entry.path()).unwrap_or(false);
            descriptors.insert(number, json!({ "link": link, "isRoot": is_root }));
        }
        Value::Object(descriptors)
    });
    json!({
        "pid": pid,
        "name": fs::read_to_string(dir.join("comm")).unwrap_or_default().trim(),
        "root": told(is_root(&dir.join("root")).map(Value::Bool)),
        "cwd": told(is_root(&dir.join("cwd")).map(Value::Bool)),
        "exe": told(fs::read_link(dir.join("exe")).map(|link| json!(link))),
        "environ": told(fs::read(dir.join("environ")).map(|bytes| json!(bytes.len()))),
        "mem": told(fs::File::open(dir.join("mem")).map(|_| Value::Null)),
        "fds": told(listed),
    })
}

fn told(result: std::io::Result<Value>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": error.kind().to_string() }),
    }
}
