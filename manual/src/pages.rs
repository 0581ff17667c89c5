//! What the man pages say beyond the table of commands.

/// The description of skeg(8).
pub const SKEG: &str = "\
skeg makes and runs containers on Linux as the OCI runtime specification describes them. It takes a bundle, which is a
directory with a config.json and a root file system, and has the command line, the output and the exit status of runc, so
that containerd, CRI-O, Docker Engine, podman and buildah can call it in the place of runc.

Every command is one process that ends with its command; there is no daemon. A container is created, started and deleted
by three commands, or all at once by \"skeg run\".

Flags may be given with one or two dashes. A value follows its flag as the next argument or behind an equals sign.";

const SKEG_EXIT: &str = "\
0 on success, 1 on failure, 3 for an unknown command. \"skeg run\" without --detach and \"skeg exec\" return the status of the
program, 128 and the number of the signal where a signal ended it; \"skeg exec\" fails with 255.

An error is one line on standard error. With --log it is also added to that file, in the format that --log-format names.";

const SKEG_ENVIRONMENT: &str = "\
XDG_RUNTIME_DIR: for a user who is not root, the state of containers is in its directory skeg.

LISTEN_FDS, LISTEN_PID: sockets that are handed on to the container (sd_listen_fds(3)).

NOTIFY_SOCKET: the container may tell this socket that it is ready (sd_notify(3)).";

const SKEG_FILES: &str = "\
/run/skeg: the state of root's containers, where --root names no other directory.

config.json, rootfs: a bundle. \"skeg spec\" writes a config.json to start from.";

// Without a backslash in front, which would take the blanks away that have them set as they are.
const SKEG_EXAMPLE: &str = "  mkdir -p box/rootfs/bin && cp /bin/busybox box/rootfs/bin/sh
  skeg spec --bundle box
  skeg run --bundle box box1";

const RUN_EXIT: &str = "\
The status of the program, or 128 and the number of the signal that ended it. 1 where the container could not be made or
started. With --detach, 0 as soon as the program runs.";

const EXEC_EXAMPLE: &str = "  skeg exec --tty --env TERM=xterm box1 sh
  skeg exec --user 1000:1000 box1 id";

const CREATE_EXAMPLE: &str = "  skeg create --bundle box --pid-file box.pid box1
  skeg start box1
  skeg delete box1";

const KILL_EXAMPLE: &str = "  skeg kill box1
  skeg kill box1 KILL";

const UPDATE_EXAMPLE: &str = "  skeg update --memory 64m --pids-limit 100 box1
  echo '{\"cpu\":{\"shares\":512}}' | skeg update --resources - box1";

const SPEC_EXAMPLE: &str = "  skeg spec --bundle box
  skeg spec --rootless";

const EVENTS_EXAMPLE: &str = "  skeg events --stats box1";

/// The sections of the page of `name` (a command, or skeg) between its options and SEE ALSO: title and text.
pub fn sections(name: &str) -> &'static [(&'static str, &'static str)] {
    match name {
        "skeg" => &[
            ("EXIT STATUS", SKEG_EXIT),
            ("ENVIRONMENT", SKEG_ENVIRONMENT),
            ("FILES", SKEG_FILES),
            ("EXAMPLES", SKEG_EXAMPLE),
        ],
        "run" => &[("EXIT STATUS", RUN_EXIT), ("EXAMPLES", SKEG_EXAMPLE)],
        "create" => &[("EXAMPLES", CREATE_EXAMPLE)],
        "events" => &[("EXAMPLES", EVENTS_EXAMPLE)],
        "exec" => &[("EXAMPLES", EXEC_EXAMPLE)],
        "kill" => &[("EXAMPLES", KILL_EXAMPLE)],
        "spec" => &[("EXAMPLES", SPEC_EXAMPLE)],
        "update" => &[("EXAMPLES", UPDATE_EXAMPLE)],
        _ => &[],
    }
}

/// The commands that the page of `command` points at.
pub fn related(command: &str) -> &'static [&'static str] {
    match command {
        "checkpoint" => &["restore"],
        "create" => &["start", "run", "spec", "delete"],
        "delete" => &["kill", "create"],
        "events" => &["update", "state"],
        "exec" => &["run", "ps"],
        "kill" => &["delete", "state"],
        "list" => &["state"],
        "pause" => &["resume"],
        "ps" => &["exec", "list"],
        "restore" => &["checkpoint"],
        "resume" => &["pause"],
        "run" => &["create", "start", "spec"],
        "spec" => &["run", "create", "features"],
        "start" => &["create", "state"],
        "state" => &["list"],
        "update" => &["events"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skeg::cli::table::COMMANDS;

    #[test]
    fn related_commands_exist() {
        for command in COMMANDS {
            for name in related(command.name) {
                assert!(COMMANDS.iter().any(|other| other.name == *name), "{name}");
            }
        }
    }

    /// Every flag and command of an example is one of skeg's.
    #[test]
    fn the_examples_parse() {
        for name in COMMANDS.iter().map(|command| command.name).chain(["skeg"]) {
            for (_, text) in sections(name).iter().filter(|(title, _)| *title == "EXAMPLES") {
                for line in text.lines().filter_map(|line| line.split("skeg ").nth(1)) {
                    let words: Vec<_> = line.split(' ').map(Into::into).collect();
                    assert!(skeg::cli::parse(&words).is_ok(), "{line}");
                }
            }
        }
    }
}
