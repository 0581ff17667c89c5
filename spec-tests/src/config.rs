//! The configuration that every bundle starts from: the default of the field's reference runtime's `spec` command,
//! to the letter, so that what is tested is what people run.

use serde_json::{Value, json};

/// What `spec` of the reference runtime writes (a test compares the two where it is installed).
pub fn default_config() -> Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
                "effective": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
                "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
                "ambient": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "runc",
        "mounts": default_mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" },
                { "type": "network" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "mount" }
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

fn default_mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]
        },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        },
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        },
        {
            "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]
        },
        {
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]
        },
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
        }
    ])
}

/// Sets the value at a JSON pointer, making the objects on the way; an index equal to an array's length appends.
pub fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut here = config;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        if let Value::Array(items) = here {
            let index = token.parse::<usize>().unwrap_or(items.len()).min(items.len());
            if index == items.len() {
                items.push(Value::Null);
            }
            here = &mut items[index];
        } else {
            if !here.is_object() {
                *here = json!({});
            }
            here = &mut here[token];
        }
    }
    *here = value;
}

/// Removes what a JSON pointer names, if it is there.
pub fn remove(config: &mut Value, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return };
    match config.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.remove(last);
        }
        Some(Value::Array(items)) => {
            if let Ok(index) = last.parse::<usize>()
                && index < items.len()
            {
                items.remove(index);
            }
        }
        _ => {}
    }
}

/// Appends to the array at a JSON pointer, which is made where it is missing.
pub fn push(config: &mut Value, pointer: &str, value: Value) {
    if config.pointer(pointer).is_none_or(|found| !found.is_array()) {
        set(config, pointer, json!([]));
    }
    if let Some(Value::Array(items)) = config.pointer_mut(pointer) {
        items.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_reach_what_a_pointer_names() {
        let mut config = default_config();
        set(&mut config, "/process/user/umask", json!(18));
        set(&mut config, "/process/rlimits/0/soft", json!(7));
        push(&mut config, "/linux/devices", json!({"path": "/dev/x"}));
        remove(&mut config, "/linux/namespaces/1");
        assert_eq!(config.pointer("/process/user/umask"), Some(&json!(18)));
        assert_eq!(config.pointer("/process/rlimits/0/soft"), Some(&json!(7)));
        assert_eq!(config.pointer("/linux/devices/0/path"), Some(&json!("/dev/x")));
        assert_eq!(config.pointer("/linux/namespaces/1/type"), Some(&json!("ipc")));
    }
}
