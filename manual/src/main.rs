//! Writes the man pages and the shell completions of skeg, from the same table that parses its command line.
//!
//! `manual DIRECTORY` makes `DIRECTORY/man/*.8` and `DIRECTORY/completions/{skeg.bash,_skeg,skeg.fish}`. It is a program
//! of the build and not shipped: skeg itself has no command for it.
#![allow(
    clippy::disallowed_methods,
    reason = "the rules about paths are the runtime's; this program runs when skeg is built"
)]

mod completions;
mod man;
mod pages;
mod values;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use skeg::cli::table::COMMANDS;

/// The shim's page, which has no table behind it.
const SHIM_PAGE: &str = include_str!("../containerd-shim-skeg-v2.8");

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [directory] = arguments.as_slice() else {
        eprintln!("usage: manual DIRECTORY");
        return ExitCode::FAILURE;
    };
    match write_all(Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    for (path, content) in files() {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(path, content)?;
    }
    Ok(())
}

/// Every file, by its path below the directory.
fn files() -> Vec<(PathBuf, String)> {
    let page = |name: &str| PathBuf::from(format!("man/{name}.8"));
    let mut files = vec![
        (page("skeg"), man::skeg()),
        (page("containerd-shim-skeg-v2"), SHIM_PAGE.replace("@VERSION@", skeg::cli::VERSION)),
        (PathBuf::from("completions/skeg.bash"), completions::bash()),
        (PathBuf::from("completions/_skeg"), completions::zsh()),
        (PathBuf::from("completions/skeg.fish"), completions::fish()),
    ];
    files.extend(
        COMMANDS.iter().map(|command| (page(&format!("skeg-{}", command.name)), man::command(command))),
    );
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the sources say, with strings that are broken over lines put together and quotes within them as they are printed.
    fn sources(directory: &Path) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all += &sources(&path);
            } else {
                for line in fs::read_to_string(&path).unwrap().lines() {
                    let line = line.trim_start();
                    match line.strip_suffix('\\') {
                        Some(start) => all += start,
                        None => all.extend([line, "\n"]),
                    }
                }
            }
        }
        all.replace("\\\"", "\"")
    }

    /// Each message that docs/troubleshooting.md explains is one of skeg's; an ellipsis there stands for anything.
    #[test]
    fn troubleshooting_names_real_messages() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let sources = sources(&top.join("runtime/src")) + &sources(&top.join("init/src"));
        let text = fs::read_to_string(top.join("docs/troubleshooting.md")).unwrap();
        let headings: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
        assert!(headings.len() > 30, "{}", headings.len());
        for heading in headings {
            for part in heading
                .split('…')
                .map(|part| part.trim_matches([':', ' ', '(']))
                .filter(|part| !part.is_empty())
            {
                assert!(sources.contains(part), "{heading:?}: no {part:?} in the sources");
            }
        }
    }
}
