//! The command line of a shim (containerd's `runtime/v2` README): flags with one or two dashes, then an action.

use crate::error::{Error, Result};

/// What containerd asks of a shim binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a shim, or name the one that serves the group.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Serve the task API on descriptor 3.
    Serve,
    /// Be the first process of a pod's sandbox.
    Pause,
    /// Print the version.
    Version,
    /// Print what the runtime can do.
    Info,
}

/// The whole command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// containerd namespace.
    pub namespace: String,
    /// Container or group id.
    pub id: String,
    /// Address of containerd's gRPC socket; part of the shim's own address.
    pub address: String,
    /// Bundle directory, where it is given.
    pub bundle: Option<String>,
    /// Whether the runtime is asked to log at level debug.
    pub debug: bool,
}

impl Args {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// An unknown flag or action, or a flag without its value.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut args = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            debug: false,
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                args.action = match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "pause" => Action::Pause,
                    other => return Err(Error::invalid(format!("unknown action {other:?}"))),
                };
                continue;
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "v" | "version" => args.action = Action::Version,
                "info" => args.action = Action::Info,
                "debug" => args.debug = inline.is_none_or(|value| value != "false"),
                "namespace" | "id" | "address" | "bundle" | "publish-binary" | "socket" => {
                    let value = inline.or_else(|| arguments.next());
                    let value =
                        value.ok_or_else(|| Error::invalid(format!("flag needs an argument: -{name}")))?;
                    match name {
                        "namespace" => args.namespace = value,
                        "id" => args.id = value,
                        "address" => args.address = value,
                        "bundle" => args.bundle = Some(value),
                        // Events go out by ttrpc, and the listening socket is inherited.
                        _ => {}
                    }
                }
                _ => return Err(Error::invalid(format!("unknown flag -{name}"))),
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    /// peers.md A3.2 and A3.5: the command lines of containerd 1.6 to 2.3 and of CRI-O.
    #[test]
    fn command_lines_of_the_managers() {
        let line =
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id web -debug start";
        let args = parse(line).unwrap();
        assert_eq!((args.action, args.namespace.as_str(), args.debug), (Action::Start, "k8s.io", true));
        assert_eq!((args.id.as_str(), args.address.as_str()), ("web", "/run/c.sock"));
        let args = parse("-namespace n -address a -publish-binary b -id i -bundle /b delete").unwrap();
        assert_eq!((args.action, args.bundle.as_deref()), (Action::Delete, Some("/b")));
        let line = "-namespace default -address= -publish-binary crio -id i start";
        assert_eq!(parse(line).unwrap().address, "");
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("--info").unwrap().action, Action::Info);
        assert_eq!(parse("-namespace n -id i").unwrap().action, Action::Serve);
        assert!(parse("-id").unwrap_err().to_string().contains("needs an argument"));
        assert!(parse("-nonsense start").is_err());
        assert!(parse("restart").is_err());
    }
}
