//! `skeg list`: what is printed about all containers.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::ListFormat;
use crate::error::{CONTAINER_DOES_NOT_EXIST, Error, Result};
use crate::log::Log;
use crate::state::{Container, StateRoot, Status};
use crate::state_cmd::ContainerStatus;

const HEADER: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
/// The least width of a column with the space after it, and that space (runc's table).
const MIN_WIDTH: usize = 12;
const PADDING: usize = 3;

/// What `skeg list` prints about the containers of the state root at `root`; no root is no container.
///
/// # Errors
/// The root cannot be read; a path that is not UTF-8, in JSON.
pub fn list(root: &Path, format: ListFormat, log: &mut Log) -> Result<String> {
    if format == ListFormat::Quiet {
        return ids(root);
    }
    let containers = containers(root, log)?;
    let rows: Vec<_> =
        containers.iter().map(|(container, status)| ContainerStatus::new(container, *status)).collect();
    text(&rows, format == ListFormat::Json)
}

/// The ids alone, for which no state has to be read: one whose state is broken is among them, so that it can be deleted.
fn ids(root: &Path) -> Result<String> {
    let Some(open) = StateRoot::open(root)? else { return Ok(String::new()) };
    let mut text = String::new();
    for id in open.ids()?.iter().filter(|id| open.has_record(id)) {
        text.push_str(id.as_str());
        text.push('\n');
    }
    Ok(text)
}

/// All containers and their status. One whose state cannot be read is a warning, and the others are listed all the same
/// (row G3).
fn containers(root: &Path, log: &mut Log) -> Result<Vec<(Container, Status)>> {
    let Some(open) = StateRoot::open(root)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for id in open.ids()? {
        let load = || {
            let dir = open.container(&id)?;
            let state = dir.read_state()?.ok_or_else(|| Error::new(CONTAINER_DOES_NOT_EXIST))?;
            let container = Container { dir, state };
            let status = container.status()?;
            Ok((container, status))
        };
        match load() {
            Ok(container) => found.push(container),
            // Deleted while we looked, or not recorded yet.
            Err(error) if Error::to_string(&error) == CONTAINER_DOES_NOT_EXIST => {}
            Err(error) => log.warn(error.to_string()),
        }
    }
    Ok(found)
}

/// The table, or JSON. Without a container that is the header, or an empty array (where runc prints `null`).
fn text(containers: &[ContainerStatus<'_>], json: bool) -> Result<String> {
    if !json {
        return Ok(table(containers));
    }
    let text = serde_json::to_string(containers);
    text.map(|text| text + "\n").map_err(|error| Error::new(format!("print the list of containers: {error}")))
}

fn table(containers: &[ContainerStatus<'_>]) -> String {
    let rows: Vec<[String; 6]> = std::iter::once(HEADER.map(str::to_owned))
        .chain(containers.iter().map(|container| {
            [
                container.id.to_owned(),
                container.pid.to_string(),
                container.status.to_owned(),
                // A bundle's name cannot forge a row (row G9).
                container.bundle.display().to_string().escape_debug().to_string(),
                container.created.to_owned(),
                container.owner.clone(),
            ]
        }))
        .collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = MIN_WIDTH.max(*width).max(cell.chars().count() + PADDING);
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row[..5].iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:width$}");
        }
        text.push_str(&row[5]);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::state_cmd::tests::example;

    /// As runc 1.1.5 printed the same container.
    #[test]
    fn the_table_is_that_of_runc() {
        let expected = "\
ID          PID         STATUS      BUNDLE        CREATED                          OWNER
web         28013       created     /tmp/cli/rb   2026-11-21T02:26:49.440597107Z   root
";
        assert_eq!(text(&[example()], false).unwrap(), expected);
        let header = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
        assert_eq!(text(&[], false).unwrap(), header);
    }

    #[test]
    fn json() {
        let json = text(&[example(), example()], true).unwrap();
        let list: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(list[1]["owner"], "root");
        assert_eq!((json.lines().count(), list.as_array().unwrap().len()), (1, 2));
        assert_eq!(text(&[], true).unwrap(), "[]\n");
    }

    /// security.md G9: no path makes another row.
    #[test]
    fn g9_a_path_cannot_forge_a_row() {
        let container =
            crate::state_cmd::ContainerStatus { bundle: Path::new("/a\nweb 1\x1b[31m"), ..example() };
        let table = text(&[container], false).unwrap();
        assert_eq!(table.lines().count(), 2);
        assert!(!table.contains('\x1b'));
    }
}
