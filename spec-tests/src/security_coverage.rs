//! Which test holds which row of the security catalogue. `SECURITY-COVERAGE.md` is printed from here.
//!
//! A test's name begins with its rows (`a3_…`, `b4_b5_…`); a case of this suite may name them in its sentence instead. Both
//! are looked for in the sources, so that the table cannot name what is not there.

mod mutants;
mod rows;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cases::{self, Host};
use crate::deviations;
use rows::ROWS;

/// Where tests are, and the lane that they run in.
const SOURCES: [(&str, &str); 4] =
    [("runtime/src", "unit"), ("runtime/tests", "runtime"), ("shim/src", "unit"), ("shim/tests", "shim")];

/// A test of a row.
struct Test {
    name: String,
    lane: &'static str,
    /// What fails it, where that is on record: an older runtime.
    fails: Option<String>,
}

/// `SECURITY-COVERAGE.md`.
pub fn document() -> String {
    let tests = tests_by_row();
    let mut text = String::from(
        "# Which test holds which row of the security catalogue\n\n\
         Printed by `cargo run -p spec-tests -- --security-coverage`; do not edit. Lanes: `spec` is this suite, `sacrificial` this suite\n\
         in a host of its own (fixture T1), `guest` this suite in the virtual machine (`make vm-test`), `runtime` and `shim` are integration tests, \
         `unit` unit\n\
         tests, `sweep` is `make sweep`. The last column is what is known to fail the row's tests: an older runc, run by\n\
         `make spec-tests`, with its reason; or a mutant of skeg (`spec-tests/mutants`), a build with the one check turned off,\n\
         of which `make mutants` demands that the tests notice.\n\n\
         | row | what holds | tests | lane | known to fail |\n|---|---|---|---|---|\n",
    );
    let mutants = mutants::all();
    for (row, title, _, why) in ROWS {
        let found = tests.get(*row).map_or(&[][..], Vec::as_slice);
        let names: Vec<String> = found.iter().map(|test| format!("`{}`", test.name)).collect();
        let mut lanes: Vec<&str> = found.iter().map(|test| test.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let mut fails: Vec<String> = found.iter().filter_map(|test| test.fails.clone()).collect();
        let turned_off = mutants.iter().filter(|mutant| mutant.row == *row);
        fails.extend(turned_off.map(|mutant| format!("mutant `{}`", mutant.name)));
        fails.dedup();
        let names = if names.is_empty() { (*why).to_owned() } else { names.join(", ") };
        let _ = writeln!(text, "| {row} | {title} | {names} | {} | {} |", lanes.join(", "), fails.join("; "));
    }
    let shown = ROWS.iter().filter(|(row, ..)| tests.contains_key(*row)).count();
    let _ =
        writeln!(text, "\n{} rows: {shown} with tests, {} without and why.", ROWS.len(), ROWS.len() - shown);
    text
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tests_by_row() -> BTreeMap<String, Vec<Test>> {
    let mut found: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for case in cases::all() {
        let lane = match case.host {
            _ if case.name.contains("apparmor") => "guest",
            Host::Sacrificial => "sacrificial",
            Host::Real => "spec",
        };
        let mut rows = rows_of_name(case.name);
        rows.extend(rows_of_sentence(case.checks));
        rows.extend(rows_that_list(case.name));
        rows.sort_unstable();
        rows.dedup();
        for row in rows {
            let fails = deviations::reason("runc", case.name).map(|reason| reason.replace('|', "\\|"));
            found.entry(row).or_default().push(Test { name: case.name.to_owned(), lane, fails });
        }
    }
    for (dir, lane) in SOURCES {
        for name in test_names(&root().join(dir)) {
            for row in rows_of_name(&name) {
                found.entry(row).or_default().push(Test { name: name.clone(), lane, fails: None });
            }
        }
    }
    for (row, _, listed, _) in ROWS {
        for name in listed.iter().filter(|name| name.starts_with("sweep")) {
            found.entry((*row).to_owned()).or_default().push(Test {
                name: (*name).to_owned(),
                lane: "sweep",
                fails: None,
            });
        }
    }
    found
}

fn rows_that_list(name: &str) -> Vec<String> {
    ROWS.iter()
        .filter(|(_, _, listed, _)| listed.contains(&name))
        .map(|(row, ..)| (*row).to_owned())
        .collect()
}

/// The rows at the beginning of a name: `b4_b5_masked…`.
fn rows_of_name(name: &str) -> Vec<String> {
    let row = |part: &&str| {
        let mut letters = part.chars();
        let first = letters.next().is_some_and(|first| ('a'..='i').contains(&first));
        first && part.len() > 1 && letters.all(|c| c.is_ascii_digit())
    };
    name.split('_').take_while(row).map(str::to_uppercase).collect()
}

/// The rows that a sentence names after the catalogue: `security.md D1, D2: …`.
fn rows_of_sentence(sentence: &str) -> Vec<String> {
    let Some((_, rest)) = sentence.split_once("security.md ") else { return Vec::new() };
    let list = rest.split(':').next().unwrap_or_default();
    let words = list.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.filter(|word| ROWS.iter().any(|(row, ..)| row == word)).map(str::to_owned).collect()
}

/// The names of tests in the sources below a directory: functions, and entries of tables of tests.
fn test_names(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names.extend(test_names(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            for line in text.lines().map(str::trim_start) {
                let function = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn "));
                let function = function.and_then(|rest| rest.split_once("()")).map(|(name, _)| name);
                let entry =
                    line.strip_prefix("(\"").and_then(|rest| rest.split_once('"')).map(|(name, _)| name);
                names.extend(
                    function.or(entry).filter(|name| !rows_of_name(name).is_empty()).map(str::to_owned),
                );
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SECURITY-COVERAGE.md` says what the sources say.
    #[test]
    fn the_document_is_up_to_date() {
        let written = fs::read_to_string(root().join("spec-tests/SECURITY-COVERAGE.md")).unwrap_or_default();
        assert!(
            written == document(),
            "print it anew: cargo run -p spec-tests -- --security-coverage >spec-tests/SECURITY-COVERAGE.md"
        );
    }

    /// No row is empty.
    #[test]
    fn every_row_has_a_test_or_a_reason() {
        let tests = tests_by_row();
        for (row, _, listed, why) in ROWS {
            assert_eq!(tests.contains_key(*row), why.is_empty(), "{row}");
            for name in *listed {
                let known = name.starts_with("sweep") || cases::all().any(|case| case.name == *name);
                assert!(known, "{row}: no case {name}");
            }
        }
    }

    /// Every row that has a test has a proof that one of them can fail.
    #[test]
    fn every_row_has_been_seen_red() {
        let (tests, mutants) = (tests_by_row(), mutants::all());
        for (row, found) in &tests {
            let old_peer = found.iter().any(|test| test.fails.is_some());
            let shim = row.starts_with('I');
            assert!(shim || old_peer || mutants.iter().any(|mutant| mutant.row == *row), "{row}: no mutant");
        }
    }

    #[test]
    fn rows_stand_in_names_and_sentences() {
        assert_eq!(rows_of_name("b4_b5_masked_paths"), ["B4", "B5"]);
        assert!(rows_of_name("bind_flags").is_empty() && rows_of_name("t7_x").is_empty());
        assert_eq!(rows_of_sentence("security.md D1, D2: a terminal"), ["D1", "D2"]);
    }
}
