//! What managers call, and what they must not get away with.

use std::os::unix::ffi::OsStrExt as _;

use super::values::parse_signal;
use super::*;
use crate::state::ContainerId;

fn argv(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn command(line: &str) -> Command {
    match parse(&argv(line)) {
        Ok(invocation) => invocation.command,
        Err(usage) => panic!("{line}: {}", usage.error),
    }
}

fn failure(line: &str) -> UsageError {
    match parse(&argv(line)) {
        Ok(invocation) => panic!("{line}: {:?}", invocation.command),
        Err(usage) => usage,
    }
}

/// peers.md A1.3: what containerd's shim runs.
#[test]
fn containerd_argv() {
    let line = "--root /run/containerd/runc/k8s.io --debug --log /b/log.json --log-format json --systemd-cgroup \
                --rootless=false create --bundle /b --pid-file /b/init.pid --console-socket /s \
                --pidfd-socket /p --no-pivot --no-new-keyring --detach --preserve-fds 3 web-1";
    let invocation = parse(&argv(line)).unwrap();
    assert_eq!(
        invocation.global,
        GlobalOptions {
            root: Some("/run/containerd/runc/k8s.io".into()),
            log: Some("/b/log.json".into()),
            log_format: Format::Json,
            log_level: Some(Level::Debug),
            cgroup_manager: CgroupManager::Systemd,
            rootless: Some(false),
        }
    );
    let Command::Create(options) = invocation.command else { panic!("{line}") };
    assert_eq!(
        options,
        CreateOptions {
            id: ContainerId::parse("web-1").unwrap(),
            bundle: "/b".into(),
            console_socket: Some("/s".into()),
            pidfd_socket: Some("/p".into()),
            pid_file: Some("/b/init.pid".into()),
            no_pivot: true,
            no_new_keyring: true,
            preserve_fds: 3,
        }
    );
    for line in [
        "exec --process /tmp/runc-process1 --console-socket /s --detach --pid-file /b/e.pid web",
        "kill --all web 9",
        "kill web 15",
        "delete --force web",
        "ps --format json web",
        "list --format=json",
        "events --stats web",
        "events --interval=5s web",
        "update --resources=- web",
        "update --resources - web",
        "checkpoint --image-path /i --work-path /w --parent-path /p --tcp-established --ext-unix-sk --shell-job \
         --page-server 1.2.3.4:5 --file-locks --manage-cgroups-mode soft --empty-ns network --empty-ns ipc \
         --lazy-pages --status-fd 3 --leave-running web",
        "checkpoint --pre-dump web",
        "restore --image-path /i --work-path /w --detach --pid-file /p --console-socket /s --no-pivot \
         -no-subreaper --bundle /b web",
        "--criu /usr/sbin/criu state web",
        "features",
    ] {
        command(line);
    }
}

/// peers.md A1.3: conmon for podman and CRI-O, podman itself, CRI-O itself, buildah.
#[test]
fn other_managers_argv() {
    for line in [
        "--systemd-cgroup --log-format=json --log /run/oci-log create --bundle /b --pid-file /p web",
        "--cgroup-manager disabled create --bundle /b --pid-file /p --no-new-keyring web",
        "exec --pid-file /p --process /f --detach web",
        "restore --bundle /b --pid-file /p --detach --image-path /i --work-path /b --tcp-established \
         --file-locks --lsm-mount-context= --lsm-profile=selinux:x web",
        "--root /r --systemd-cgroup start web",
        "--root /r kill web TERM",
        "--root /r kill -a web 9",
        "--root /r update --resources - web",
        "--root /r exec --process /f web",
        "checkpoint --file-locks --image-path /i --work-path /w --leave-running web",
        "kill web",
        "delete web",
        "pause web",
        "resume web",
    ] {
        command(line);
    }
    let json = parse(&argv("--log-format=json --log /run/oci-log state web")).unwrap().global;
    assert_eq!((json.log_format, json.log), (Format::Json, Some("/run/oci-log".into())));
}

/// peers.md A1.3: podman's two probes for checkpoint support.
#[test]
fn podman_probes() {
    let Command::Print(help) = command("checkpoint --help") else { panic!("no help") };
    assert!(help.contains("--image-path value"));
    let usage = failure("restore --lsm-mount-context");
    assert_eq!(usage.error.to_string(), "flag needs an argument: -lsm-mount-context");
    assert!(usage.help.starts_with("Incorrect Usage: flag needs an argument: -lsm-mount-context\n\nNAME:\n"));
    assert_eq!(usage.error.exit_status(), None);
}

/// What Debian's runc 1.1.5 printed for the same mistakes, its name aside.
#[test]
fn mistakes_have_the_words_and_statuses_of_runc() {
    for (line, words, status) in [
        ("nosuch", "No help topic for 'nosuch'", Some(3)),
        ("help nosuch", "No help topic for 'nosuch'", Some(3)),
        ("-", "No help topic for '-'", Some(3)),
        ("--nosuch", "flag provided but not defined: -nosuch", None),
        ("state --nosuch a", "flag provided but not defined: -nosuch", None),
        ("state", "skeg: \"state\" requires exactly 1 argument(s)", None),
        ("state a b", "skeg: \"state\" requires exactly 1 argument(s)", None),
        ("features x", "skeg: \"features\" requires exactly 0 argument(s)", None),
        ("list -- x", "skeg: \"list\" requires exactly 0 argument(s)", None),
        ("kill", "skeg: \"kill\" requires a minimum of 1 argument(s)", None),
        ("kill x 9 9", "skeg: \"kill\" requires a maximum of 2 argument(s)", None),
        ("exec", "skeg: \"exec\" requires a minimum of 1 argument(s)", None),
        ("exec x", "exec failed: process args cannot be empty", Some(255)),
        ("create --preserve-fds abc x", "invalid value \"abc\" for flag -preserve-fds: parse error", None),
        ("create --no-pivot=maybe x", "invalid boolean value \"maybe\" for -no-pivot: parse error", None),
        ("--log-format=xml state x", "invalid log-format: xml", None),
        ("kill x BOGUS", "unknown signal \"BOGUS\"", None),
        ("list --format xml", "invalid format option: must be table or json", None),
        ("events --interval=0s x", "duration interval must be greater than 0", None),
    ] {
        let usage = failure(line);
        assert_eq!((usage.error.to_string().as_str(), usage.error.exit_status()), (words, status), "{line}");
    }
}

/// The log options count even where the command is wrong: containerd reads the reason from its log file.
#[test]
fn a_usage_error_knows_where_the_log_is() {
    let usage = failure("--log /l --log-format json state");
    assert_eq!((usage.global.log, usage.global.log_format), (Some("/l".into()), Format::Json));
}

/// security.md G1: every command that takes an id refuses a bad one before it does anything.
#[test]
fn g1_every_command_checks_the_id() {
    let with_id = table::COMMANDS.iter().filter(|command| command.min == 1);
    let mut count = 0;
    for syntax in with_id {
        for id in ["../x", "/", ".", "..", "a/b", "a\nb", &"x".repeat(4096), ""] {
            let mut args = vec![OsString::from(syntax.name), OsString::from(id)];
            if syntax.name == "exec" {
                args.push("ls".into());
            }
            let usage = parse(&args).unwrap_err();
            assert!(usage.error.to_string().contains("container"), "{}: {}", syntax.name, usage.error);
        }
        count += 1;
    }
    assert_eq!(count, 14);
    assert_eq!(failure("exec ../x ls").error.exit_status(), Some(255));
}

/// security.md E3: `exec --user` takes plain numbers, and nothing else becomes an id.
#[test]
fn e3_user_table() {
    for text in [
        "",
        ":",
        "1:",
        ":1",
        "-1",
        "+1",
        "01",
        " 1",
        "1 ",
        "4294967295",
        "4294967296",
        "1e3",
        "root",
        "0x1",
        "1:2:3",
        "1:-1",
        "1.0",
        "\u{661}",
    ] {
        assert!(User::parse(text).is_err(), "{text:?}");
        let args: Vec<OsString> = ["exec", "--user", text, "x", "id"].map(OsString::from).to_vec();
        assert_eq!(parse(&args).unwrap_err().error.exit_status(), Some(255), "{text:?}");
    }
    assert_eq!(User::parse("0").unwrap(), User { uid: 0, gid: None });
    assert_eq!(
        User::parse("2147483648:4294967294").unwrap(),
        User { uid: 2_147_483_648, gid: Some(4_294_967_294) }
    );
    let Command::Exec(options) = command("exec -u 1:2 -g 3 --additional-gids=4 x id") else { panic!("exec") };
    assert_eq!(options.user, Some(User { uid: 1, gid: Some(2) }));
    assert!(failure("exec --additional-gids -1 x id").error.to_string().contains("additional-gids"));
}

/// peers.md A1.2: number, name, name with SIG; `kill -l` has SIGRTMIN at 34 and SIGRTMAX at 64.
#[test]
fn signals() {
    let table = [
        ("9", 9),
        ("0", 0),
        ("64", 64),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("RTMIN", 34),
        ("SIGRTMIN+1", 35),
        ("RTMAX-1", 63),
        ("rtmax", 64),
        ("IOT", 6),
        ("CLD", 17),
        ("POLL", 29),
        ("WINCH", 28),
        ("PWR", 30),
        ("SYS", 31),
    ];
    for (text, number) in table {
        assert_eq!(parse_signal(OsStr::new(text)).unwrap(), number, "{text}");
    }
    for text in [
        "",
        "SIG",
        "-1",
        "65",
        "BOGUS",
        "RTMIN+31",
        "RTMIN-1",
        "RTMAX+1",
        "RTMIN+",
        "RTMIN+x",
        "SIGSIGKILL",
        "9 ",
        "99999999999",
    ] {
        assert!(parse_signal(OsStr::new(text)).is_err(), "{text:?}");
    }
    assert_eq!(
        command("kill x"),
        Command::Kill { id: ContainerId::parse("x").unwrap(), signal: 15, all: false }
    );
    assert_eq!(
        command("kill -a x RTMIN+2"),
        Command::Kill { id: ContainerId::parse("x").unwrap(), signal: 36, all: true }
    );
}

/// Every flag of every command changes what comes out: none is parsed and then forgotten, but for those that are
/// documented to have no effect.
#[test]
fn every_flag_arrives() {
    let without_effect = ["checkpoint", "restore"];
    let obsolete = [("create", "detach"), ("exec", "no-subreaper"), ("list", "quiet")];
    for syntax in table::COMMANDS.iter().filter(|syntax| !without_effect.contains(&syntax.name)) {
        let base: Vec<OsString> = match syntax.min {
            0 => vec![],
            _ if syntax.name == "exec" => vec!["x".into(), "ls".into()],
            _ => vec!["x".into()],
        };
        let run = |extra: &[OsString]| {
            let args = [&[OsString::from(syntax.name)], extra, &base].concat();
            parse(&args).map(|invocation| invocation.command).map_err(|usage| usage.error)
        };
        let plain = run(&[]).unwrap();
        for flag in syntax.flags.iter().filter(|flag| !obsolete.contains(&(syntax.name, flag.name))) {
            let value = match (flag.kind, flag.name) {
                (flags::Kind::Bool, _) => "",
                (flags::Kind::Duration, _) => "=7s",
                (_, "format") => "=json",
                _ => "=7",
            };
            for name in [format!("--{}{value}", flag.name), format!("-{}{value}", flag.short)] {
                if name.trim_start_matches('-').trim_end_matches(value).is_empty() {
                    continue;
                }
                assert_ne!(run(&[name.clone().into()]).unwrap(), plain, "{} {name}", syntax.name);
            }
        }
    }
}

/// Names occur once, and every command has its help.
#[test]
fn the_table_is_sound() {
    for syntax in table::COMMANDS {
        let mut names: Vec<_> = syntax
            .flags
            .iter()
            .flat_map(|flag| [flag.name, flag.short])
            .filter(|name| !name.is_empty())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{}", syntax.name);
        assert!(syntax.flags.iter().all(|flag| flag.hidden == flag.help.is_empty()), "{}", syntax.name);
        let Command::Print(help) = command(&format!("{} --help", syntax.name)) else {
            panic!("{}", syntax.name)
        };
        assert!(help.starts_with(&format!(
            "NAME:\n   skeg {} - {}\n\nUSAGE:\n   skeg {}",
            syntax.name, syntax.summary, syntax.name
        )));
        assert!(help.contains("\n\nDESCRIPTION:\n   "), "{help}");
        assert!(help.lines().all(|line| line.len() <= 130), "{help}");
        assert_eq!(command(&format!("help {}", syntax.name)), Command::Print(help));
    }
    for line in ["", "help", "h", "--help", "-h", "--help list"] {
        let Command::Print(help) = command(line) else { panic!("{line}") };
        assert!(help.contains("GLOBAL OPTIONS:\n   --debug"), "{help}");
    }
}

/// go-runc before 1.1: three lines, one "version " in the first, one ": " in the others. dockerd: no other line
/// with "version". runc's own test: `spec: N.N.N`.
#[test]
fn version_has_three_lines_that_managers_parse() {
    for line in ["--version", "-v", "--version list", "--root /r --version"] {
        let Command::Print(text) = command(line) else { panic!("{line}") };
        let lines: Vec<_> = text.trim().split('\n').collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].split("version ").collect::<Vec<_>>(), ["skeg ", VERSION]);
        assert_eq!(lines[1].split(": ").collect::<Vec<_>>(), ["commit", COMMIT]);
        assert_eq!(lines[2].split(": ").collect::<Vec<_>>(), ["spec", SPEC_VERSION]);
        assert!(!lines[1..].iter().any(|line| line.contains("version")));
    }
}

#[test]
fn cgroup_managers_and_rootless() {
    for (line, manager) in [
        ("list", CgroupManager::Cgroupfs),
        ("--systemd-cgroup list", CgroupManager::Systemd),
        ("--systemd-cgroup=false list", CgroupManager::Cgroupfs),
        ("--cgroup-manager systemd list", CgroupManager::Systemd),
        ("--cgroup-manager=disabled list", CgroupManager::Disabled),
    ] {
        assert_eq!(parse(&argv(line)).unwrap().global.cgroup_manager, manager, "{line}");
    }
    for line in [
        "--cgroup-manager x list",
        "--systemd-cgroup --cgroup-manager cgroupfs list",
        "--rootless=maybe list",
    ] {
        failure(line);
    }
    assert_eq!(parse(&argv("--rootless auto list")).unwrap().global.rootless, None);
    assert_eq!(parse(&argv("--rootless=true list")).unwrap().global.rootless, Some(true));
}

#[test]
fn root_directory_of_a_user() {
    let run = Some(OsStr::new("/run/user/7"));
    assert_eq!(default_root(true, run), PathBuf::from("/run/skeg"));
    assert_eq!(default_root(false, run), PathBuf::from("/run/user/7/skeg"));
    assert_eq!(default_root(false, None), PathBuf::from("/run/skeg"));
    assert_eq!(default_root(false, Some(OsStr::new(""))), PathBuf::from("/run/skeg"));
}

/// security.md D10: the counts of descriptors.
#[test]
fn d10_counts_of_descriptors() {
    for value in ["-1", "1048577", "4294967296", "3x", "0x3", ""] {
        assert!(
            parse(&["create".into(), "--preserve-fds".into(), value.into(), "x".into()]).is_err(),
            "{value:?}"
        );
    }
    let fds = |value: &str, pid: Option<&str>| listen_fds(Some(OsStr::new(value)), pid.map(OsStr::new), 42);
    for value in ["-1", "+1", "4294967296", "3x", " 3"] {
        assert!(fds(value, None).is_err(), "{value:?}");
    }
    assert_eq!(fds("3", None).unwrap(), 3);
    assert_eq!(fds("3", Some("42")).unwrap(), 3);
    assert_eq!(fds("3", Some("43")).unwrap(), 0);
    assert_eq!(fds("", None).unwrap(), 0);
    assert_eq!(listen_fds(None, None, 42).unwrap(), 0);
    assert!(listen_fds(Some(OsStr::from_bytes(b"\xff")), None, 42).is_err());
}

/// What follows the id belongs to the program, whatever it looks like.
#[test]
fn exec_and_ps_leave_the_arguments_alone() {
    let Command::Exec(options) =
        command("exec -t --cwd /w -e A=1 --env B=2,3 -c CAP_KILL web ls -l --env C=3 -- -h")
    else {
        panic!("exec")
    };
    assert_eq!(options.args, ["ls", "-l", "--env", "C=3", "--", "-h"]);
    assert_eq!((options.env.as_slice(), options.tty), (&["A=1".to_owned(), "B=2,3".to_owned()][..], true));
    assert_eq!(options.cwd, Some("/w".into()));
    let Command::Ps { format: PsFormat::Table(arguments), .. } = command("ps web -o pid --format x") else {
        panic!("ps")
    };
    assert_eq!(arguments, ["-o", "pid", "--format", "x"]);
    assert_eq!(
        command("delete web --force"),
        Command::Delete { id: ContainerId::parse("web").unwrap(), force: true }
    );
}
