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
use mutants::Mutant;
use rows::ROWS;

/// Where tests are, the lane that they run in, and how `scripts/mutants` calls their kind.
const SOURCES: [(&str, &str, &str); 5] = [
    ("runtime/src", "unit", "unit"),
    ("init/src", "unit", "init-unit"),
    ("runtime/tests", "runtime", "runtime"),
    ("shim/src", "unit", "shim-unit"),
    ("shim/tests", "shim", "shim"),
];

/// A test of a row.
struct Test {
    name: String,
    lane: &'static str,
    /// How `scripts/mutants` calls its kind.
    kind: &'static str,
    /// What fails it, where that is on record: an older runtime.
    fails: Option<String>,
}

impl Test {
    /// What has been seen to fail it: an older runtime, and mutants.
    fn proofs(&self, row: &str, mutants: &[Mutant]) -> Vec<String> {
        let noticing = mutants.iter().filter(|mutant| mutant.is_noticed_by(row, self.kind, &self.name));
        let noticing = noticing.map(|mutant| format!("mutant `{}`", mutant.name));
        self.fails.iter().cloned().chain(noticing).collect()
    }
}

/// `SECURITY-COVERAGE.md`.
pub fn document() -> String {
    let tests = tests_by_row();
    let mut text = String::from(
        "# Which test holds which row of the security catalogue\n\n\
         Printed by `cargo run -p spec-tests -- --security-coverage`; do not edit. Lanes: `spec` is this suite, `sacrificial` this suite\n\
         in a host of its own (fixture T1), `guest` this suite in the virtual machine (`make vm-test`), `runtime` and `shim` are integration tests, \
         `unit` unit\n\
         tests, `sweep` is `make sweep`. The last column is what has been seen to fail the test: an older runc, run by\n\
         `make spec-tests`, with its reason; or a mutant of skeg (`spec-tests/mutants`), a build with the one check turned off,\n\
         of which `make mutants` demands that the test notices.\n\n\
         | row | what holds | test | lane | seen red by |\n|---|---|---|---|---|\n",
    );
    let mutants = mutants::all();
    let (mut pairs, mut old, mut without) = (0, 0, Vec::new());
    for (row, title, _, why) in ROWS {
        let found = tests.get(*row).map_or(&[][..], Vec::as_slice);
        if found.is_empty() {
            let _ = writeln!(text, "| {row} | {title} | {why} |  |  |");
        }
        for (index, test) in found.iter().enumerate() {
            let proofs = test.proofs(row, &mutants);
            pairs += 1;
            old += usize::from(proofs.len() == 1 && test.fails.is_some());
            if proofs.is_empty() {
                without.push(format!("{row} `{}`", test.name));
            }
            let said = if proofs.is_empty() { "nothing yet".to_owned() } else { proofs.join("; ") };
            let title = if index == 0 { title } else { &"" };
            let _ = writeln!(text, "| {row} | {title} | `{}` | {} | {said} |", test.name, test.lane);
        }
    }
    let shown = ROWS.iter().filter(|(row, ..)| tests.contains_key(*row)).count();
    let _ =
        writeln!(text, "\n{} rows: {shown} with tests, {} without and why.", ROWS.len(), ROWS.len() - shown);
    let red = pairs - without.len();
    let _ = writeln!(
        text,
        "\n{pairs} pairs of row and test: {red} seen red, {} of them by a mutant, {} not: {}.",
        red - old,
        without.len(),
        if without.is_empty() { "none".to_owned() } else { without.join(", ") },
    );
    text
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tests_by_row() -> BTreeMap<String, Vec<Test>> {
    let mut found: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for case in cases::all() {
        let lane = match case.host {
            _ if takes_guest(case.name) => "guest",
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
            found.entry(row).or_default().push(Test {
                name: case.name.to_owned(),
                lane,
                kind: "spec",
                fails,
            });
        }
    }
    for (dir, lane, kind) in SOURCES {
        for name in test_names(&root().join(dir)) {
            for row in rows_of_name(&name) {
                found.entry(row).or_default().push(Test { name: name.clone(), lane, kind, fails: None });
            }
        }
    }
    for (row, _, listed, _) in ROWS {
        for name in listed.iter().filter(|name| name.starts_with("sweep")) {
            found.entry((*row).to_owned()).or_default().push(Test {
                name: (*name).to_owned(),
                lane: "sweep",
                kind: "sweep",
                fails: None,
            });
        }
    }
    found
}

/// Whether a case is of the virtual machine: what it takes is in its name.
fn takes_guest(name: &str) -> bool {
    ["apparmor", "selinux", "systemd"].iter().any(|kind| name.contains(kind))
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
    // The numbers of other documents have a point in them.
    let words = list.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty());
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

    /// Every test has been seen red, for each of its rows.
    #[test]
    fn every_test_has_been_seen_red() {
        let (tests, mutants) = (tests_by_row(), mutants::all());
        for (row, found) in &tests {
            for test in found {
                assert!(!test.proofs(row, &mutants).is_empty(), "{row} {}", test.name);
            }
        }
    }

    #[test]
    fn rows_stand_in_names_and_sentences() {
        assert_eq!(rows_of_name("b4_b5_masked_paths"), ["B4", "B5"]);
        assert!(rows_of_name("bind_flags").is_empty() && rows_of_name("t7_x").is_empty());
        assert_eq!(rows_of_sentence("security.md D1, D2: a terminal"), ["D1", "D2"]);
        assert_eq!(rows_of_sentence("security.md B1 and peers.md A1.2: a profile"), ["B1"]);
    }
}
