#![allow(clippy::disallowed_methods, reason = "tests make bundles")]

use std::time::{Duration, Instant};

use super::*;

const MINIMAL: &str = r#"{"ociVersion": "1.3.0", "root": {"path": "rootfs"},
  "process": {"user": {"uid": 1, "gid": 2}, "cwd": "/", "args": ["sh"]}}"#;

/// A directory of its own for a test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("skeg-bundle-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn with(name: &str, config: impl AsRef<[u8]>) -> Self {
        let scratch = Self::new(name);
        std::fs::write(scratch.0.join(CONFIG), config).unwrap();
        scratch
    }

    fn load(&self) -> Result<Loaded<Spec>> {
        load(&Bundle::open(&self.0)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The error for MINIMAL with one text replaced.
fn error_of(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from}");
    parse_config(MINIMAL.replacen(from, to, 1).into_bytes()).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_bundle_is_read() {
    let scratch = Scratch::with("read", MINIMAL);
    let loaded = scratch.load().unwrap();
    assert_eq!(loaded.value.process().as_ref().unwrap().user().gid(), 2);
    assert_eq!(loaded.text, MINIMAL.as_bytes());
    assert!(loaded.warnings.is_empty() && loaded.unknown_properties().is_empty());
    assert_eq!(Bundle::open(&scratch.0).unwrap().path(), scratch.0);
    let here = Bundle::open(Path::new(".")).unwrap();
    assert_eq!(here.path(), std::env::current_dir().unwrap());
}

/// runc's words for what is missing, and ours.
#[test]
fn missing_files() {
    let scratch = Scratch::new("missing");
    assert_eq!(scratch.load().unwrap_err().to_string(), "JSON specification file config.json not found");
    let error = Bundle::open(Path::new("/nonexistent/b")).unwrap_err();
    assert_eq!(error.to_string(), "open bundle /nonexistent/b: no such file or directory");
    let error = load_process(Path::new("/nonexistent/p")).unwrap_err();
    assert_eq!(error.to_string(), "open /nonexistent/p: no such file or directory");
}

/// security.md G5: files that are none, without waiting for anybody.
#[test]
fn g5_only_regular_files() {
    let started = Instant::now();
    let scratch = Scratch::new("fifo");
    nix::unistd::mkfifo(&scratch.0.join(CONFIG), Mode::S_IRWXU).unwrap();
    assert_eq!(scratch.load().unwrap_err().to_string(), "config.json: not a regular file");
    let scratch = Scratch::new("dir");
    std::fs::create_dir(scratch.0.join(CONFIG)).unwrap();
    assert_eq!(scratch.load().unwrap_err().to_string(), "config.json: not a regular file");
    let scratch = Scratch::new("zero");
    std::os::unix::fs::symlink("/dev/zero", scratch.0.join(CONFIG)).unwrap();
    assert_eq!(scratch.load().unwrap_err().to_string(), "config.json: not a regular file");
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// security.md G5: a sparse gigabyte is refused by its size, and the largest file allowed is read.
#[test]
fn g5_size_cap() {
    let scratch = Scratch::with("big", MINIMAL);
    let file = std::fs::OpenOptions::new().write(true).open(scratch.0.join(CONFIG)).unwrap();
    file.set_len(1 << 30).unwrap();
    assert_eq!(scratch.load().unwrap_err().to_string(), "config.json: longer than 16777216 bytes");
    let padded = format!("{MINIMAL}{}", " ".repeat(CONFIG_LIMIT - MINIMAL.len()));
    Scratch::with("just", padded).load().unwrap();
}

/// security.md G5: hostile text is an error, not a crash, in bounded time.
#[test]
fn g5_hostile_text() {
    let started = Instant::now();
    let nested = |open: &str, close: &str, depth: usize| {
        MINIMAL.replacen(
            "\"ociVersion\"",
            &format!("\"x\": {}1{}, \"ociVersion\"", open.repeat(depth), close.repeat(depth)),
            1,
        )
    };
    // Unknown, and so skipped, at any depth; as a known property it has a limit.
    parse_config(nested("[", "]", 1_000_000).into_bytes()).unwrap();
    parse_config(nested("{\"a\":", "}", 1_000_000).into_bytes()).unwrap();
    for text in [
        MINIMAL.replacen("[\"sh\"]", &"[".repeat(1_000_000), 1),
        format!("{MINIMAL}}}"),
        format!("{MINIMAL} {MINIMAL}"),
        format!("\u{feff}{MINIMAL}"),
        MINIMAL[..MINIMAL.len() - 1].to_owned(),
        String::new(),
        "null".to_owned(),
        "7".to_owned(),
        MINIMAL.replacen('1', "1e400", 2),
    ] {
        let error = parse_config(text.into_bytes()).map(|_| ()).unwrap_err().to_string();
        assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    }
    // serde takes an array for an object's values in order; this one lacks them all.
    assert!(validate(&parse_config(b"[]".to_vec()).unwrap().value).is_err());
    assert!(parse_config([&b"{\"ociVersion\": \"\xff\""[..], &MINIMAL.as_bytes()[22..]].concat()).is_err());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// security.md G5: the pointer, the value, and what is allowed.
#[test]
fn g5_errors_name_pointer_value_and_what_is_allowed() {
    let limits = r#"["sh"], "rlimits": [{"type": "RLIMIT_CPU", "hard": 1, "soft": 1}, {"type": "RLIMIT_X"}]"#;
    let error = error_of("[\"sh\"]", limits);
    assert!(
        error.starts_with("/process/rlimits/1/type: \"RLIMIT_X\": must be one of `RLIMIT_CPU`"),
        "{error}"
    );
    for (from, to, expected) in [
        ("\"uid\": 1", "\"uid\": -1", "/process/user/uid: integer `-1`: must be u32"),
        ("\"uid\": 1", "\"uid\": 4294967296", "/process/user/uid: integer `4294967296`: must be u32"),
        ("\"uid\": 1", "\"uid\": 1.5", "/process/user/uid: floating point `1.5`: must be u32"),
        ("\"uid\": 1", "\"uid\": \"0\"", "/process/user/uid: string \"0\": must be u32"),
        ("\"uid\": 1", "\"uid\": {}", "/process/user/uid: map: must be u32"),
        ("\"uid\": 1", "\"uid\": [7]", "/process/user/uid: sequence: must be u32"),
        ("\"uid\": 1", "\"uid\": null", "/process/user/uid: null: must be u32"),
        ("[\"sh\"]", "[\"sh\", 7]", "/process/args/1: integer `7`: must be a string"),
        ("[\"sh\"]", "\"sh\"", "/process/args: string \"sh\": must be a sequence"),
        ("\"cwd\": \"/\", ", "", "/process: missing field `cwd`"),
        ("\"gid\": 2", "\"uid\": 2", "/process/user/uid: duplicate field `uid`"),
        (
            "{\"path\": \"rootfs\"}",
            "{\"path\": \"rootfs\", \"readonly\": 1}",
            "/root/readonly: integer `1`: must be a boolean",
        ),
        (
            "{\"ociVersion\"",
            "{\"ociVersion\": \"1.0.0\", \"ociVersion\"",
            "/ociVersion: duplicate field `ociVersion`",
        ),
        (
            "{\"ociVersion\": \"1.3.0\"",
            "{\"ociVersion\": tru",
            "config.json: line 1, column 19: expected ident",
        ),
        (
            "{\"ociVersion\": \"1.3.0\"",
            "{\"annotations\": {\"a/b\": 1}",
            "/annotations/a~1b: integer `1`: must be a string",
        ),
    ] {
        assert_eq!(error_of(from, to), expected, "{to}");
    }
    let kind = r#"["sh"]}, "linux": {"namespaces": [{"type": "pid"}, {"type": "bogus"}]}, "x": {"y": 1"#;
    let error = error_of("[\"sh\"]", kind);
    assert!(error.starts_with("/linux/namespaces/1/type: \"bogus\": must be one of `mount`"), "{error}");
}

/// security.md G5: NUL in any string.
#[test]
fn g5_nul_is_refused() {
    assert_eq!(error_of("\"sh\"", r#""s\u0000h""#), "/process/args/0: must not contain NUL");
    assert_eq!(error_of("\"cwd\": \"/\"", r#""cwd": "/\u0000""#), "/process/cwd: must not contain NUL");
    // A backslash and u0000, and a raw NUL, which is no JSON.
    parse_config(MINIMAL.replacen("sh", r"\\u0000", 1).into_bytes()).unwrap();
    assert!(error_of("\"sh\"", "\"s\0h\"").starts_with("config.json: line 2"));
}

/// security.md G5: a key that occurs twice in a map: the last one counts.
#[test]
fn g5_the_last_key_of_a_map_counts() {
    let text = MINIMAL.replacen('{', "{\"annotations\": {\"a\": \"1\", \"a\": \"2\"}, ", 1);
    let spec = parse_config(text.into_bytes()).unwrap().value;
    assert_eq!(spec.annotations().as_ref().unwrap()["a"], "2");
}

/// config.md, linux process: a capability that nobody knows MUST be logged as a warning and is no error.
#[test]
fn unknown_capabilities_are_warnings() {
    let sets =
        r#"["sh"], "capabilities": {"bounding": ["CAP_KILL", "CAP_TIME_TRAVEL"], "ambient": ["CAP_X"]}"#;
    let loaded = parse_config(MINIMAL.replacen("[\"sh\"]", sets, 1).into_bytes()).unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "/process/capabilities/bounding: \"CAP_TIME_TRAVEL\": unknown capability, not granted",
            "/process/capabilities/ambient: \"CAP_X\": unknown capability, not granted",
        ]
    );
    let process = loaded.value.process().as_ref().unwrap();
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
    assert_eq!(capabilities.ambient().as_ref().unwrap().len(), 0);
    // Another mistake beside it is still found, with its pointer; a name of another type is none.
    assert_eq!(
        error_of("[\"sh\"]", &format!("{sets}, \"terminal\": 1")),
        "/process/terminal: integer `1`: must be a boolean"
    );
    let error = error_of("[\"sh\"]", r#"["sh"], "capabilities": {"bounding": [7]}"#);
    assert_eq!(error, "/process/capabilities/bounding/0: integer `7`: must be a string");
}

#[test]
fn the_deadline_flag_has_its_name() {
    let scheduler =
        r#"["sh"], "scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_DL_OVERRUN"]}"#;
    parse_config(MINIMAL.replacen("[\"sh\"]", scheduler, 1).into_bytes()).unwrap();
}

/// config.md, extensibility: unknown properties MUST be ignored; they can be listed.
#[test]
fn unknown_properties_are_listed() {
    let text = r#"["sh"], "a/b": 1, "user2": null}, "mounts": [{"destination": "/a", "x": [1]}], "y": [], "z": {"q": 1"#;
    let loaded = parse_config(MINIMAL.replacen("[\"sh\"]", text, 1).into_bytes()).unwrap();
    assert_eq!(loaded.unknown_properties(), ["/process/a~1b", "/process/user2", "/mounts/0/x", "/y", "/z"]);
}

/// The process object of exec, with the same rules.
#[test]
fn a_process_file() {
    let scratch = Scratch::new("process");
    let path = scratch.0.join("process.json");
    std::fs::write(&path, r#"{"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["ls"], "capabilities": {"bounding": ["CAP_X"]}}"#).unwrap();
    let loaded = load_process(&path).unwrap();
    assert_eq!(loaded.warnings, ["/capabilities/bounding: \"CAP_X\": unknown capability, not granted"]);
    validate_process(&loaded.value, "").unwrap();
    std::fs::write(&path, r#"{"user": {"uid": 0, "gid": 0}, "cwd": "x", "args": ["ls"]}"#).unwrap();
    let error = validate_process(&load_process(&path).unwrap().value, "").unwrap_err();
    assert_eq!(error.to_string(), "/cwd: \"x\": must be an absolute path");
}
