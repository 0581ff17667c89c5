//! Which cases check which sentence of runtime-spec 1.3: every one with MUST, MUST NOT, REQUIRED or SHALL of runtime.md,
//! config.md, their Linux parts and features.md. `COVERAGE.md` is printed from here.
//!
//! A sentence is named by its section and its first words. `--coverage-of DIR` holds the table against the text of the
//! specification (a checkout, or Debian's golang-github-opencontainers-specs): a sentence that no row names is an error.

mod config;
mod features;
mod linux;
mod runtime;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::failure::{During, Outcome};

/// Who checks a sentence.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// Cases of this suite.
    Cases(&'static [&'static str]),
    /// Cases of this suite, and tests of the runtime for what cannot be seen from outside on such a machine: hardware that
    /// it lacks, hierarchies that are mounted otherwise.
    Unit(&'static [&'static str], &'static [&'static str]),
    /// It binds somebody else: whom, and why.
    Others(&'static str),
}

/// A sentence.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The anchor of its section.
    section: &'static str,
    /// Its first words, without markup.
    words: &'static str,
    by: By,
}

const fn row(section: &'static str, words: &'static str, by: By) -> Row {
    Row { section, words, by }
}

/// The documents in the order of the specification.
const DOCUMENTS: [(&str, &[Row]); 6] = [
    ("runtime.md", runtime::RUNTIME),
    ("runtime-linux.md", runtime::RUNTIME_LINUX),
    ("config.md", config::CONFIG),
    ("config-linux.md", linux::CONFIG_LINUX),
    ("features.md", features::FEATURES),
    ("features-linux.md", features::FEATURES_LINUX),
];

/// `COVERAGE.md`.
pub fn document() -> String {
    let rows = || DOCUMENTS.iter().flat_map(|(_, rows)| rows.iter());
    let others = rows().filter(|row| matches!(row.by, By::Others(_))).count();
    let units = rows().filter(|row| matches!(row.by, By::Unit([], _))).count();
    let mut text = format!(
        "# What checks which sentence of runtime-spec 1.3\n\n\
         Printed by `cargo run -p spec-tests -- --coverage`; do not edit. Every sentence with MUST, MUST NOT, REQUIRED or SHALL,\n\
         by its section and first words, and the cases of `spec-tests` for it. `skeg:` names a test of the runtime where nothing can\n\
         be seen from outside on every machine (no resctrl hardware, no such controller).\n\n\
         {} sentences: {} by cases, {units} by tests of the runtime, {others} that bind somebody else.\n",
        rows().count(),
        rows().count() - others - units,
    );
    for (document, rows) in DOCUMENTS {
        let _ = write!(text, "\n## {document}\n\n| section | sentence | checked by |\n|---|---|---|\n");
        for row in rows {
            let words = row.words.replace('|', "\\|");
            let _ = writeln!(text, "| {} | {words} … | {} |", row.section, checked_by(row.by));
        }
    }
    text
}

fn checked_by(by: By) -> String {
    let list = |names: &[&str], mark: &str| {
        names.iter().map(|name| format!("{mark}`{name}`")).collect::<Vec<_>>().join(", ")
    };
    match by {
        By::Cases(names) => list(names, ""),
        By::Unit([], tests) => list(tests, "skeg: "),
        By::Unit(names, tests) => format!("{}, {}", list(names, ""), list(tests, "skeg: ")),
        By::Others(reason) => format!("not for a runtime on Linux: {reason}"),
    }
}

/// The sentences of the specification in `dir` that no row names, one line each.
pub fn missing(dir: &Path) -> Outcome<Vec<String>> {
    let mut missing = Vec::new();
    for (document, rows) in DOCUMENTS {
        let text =
            fs::read_to_string(dir.join(document)).during(format!("{document} of the specification"))?;
        let named: Vec<String> = rows.iter().map(|row| letters(row.words)).collect();
        for (number, sentence) in normative(&text) {
            let plain = letters(&sentence);
            // Either may be cut short: the words by us, the sentence by a colon in the middle of it.
            if !named.iter().any(|words| plain.starts_with(words) || words.starts_with(&plain)) {
                missing.push(format!("{document}:{number}: {sentence}"));
            }
        }
    }
    Ok(missing)
}

/// The sentences with one of the words, with their line numbers; code is left out.
fn normative(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code || !has_keyword(line) {
            continue;
        }
        let line = without_links(line);
        let sentences = line.split_inclusive(['.', ':', ';']).fold(vec![String::new()], |mut all, part| {
            // A sentence starts with a capital letter after a space.
            let starts = part.starts_with(' ').then(|| part.trim_start().chars().next()).flatten();
            if starts.is_some_and(|first| first.is_uppercase() || first == '`') {
                all.push(String::new());
            }
            if let Some(last) = all.last_mut() {
                last.push_str(part);
            }
            all
        });
        found.extend(sentences.into_iter().filter(|one| has_keyword(one)).map(|one| (index + 1, one)));
    }
    found
}

fn has_keyword(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric()).any(|word| ["MUST", "REQUIRED", "SHALL"].contains(&word))
}

/// The text with `[words](target)` and `[words][target]` as `words`.
fn without_links(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        let Some((words, after)) = after.split_once(']') else {
            text.push('[');
            rest = after;
            continue;
        };
        text.push_str(words);
        rest = match after.chars().next() {
            Some('(') => after.split_once(')').map_or("", |(_, rest)| rest),
            Some('[') => after.split_once(']').map_or("", |(_, rest)| rest),
            _ => after,
        };
    }
    text + rest
}

/// Letters and digits alone: markup and lines may be broken otherwise in another version.
fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");

    /// `COVERAGE.md` says what the tables say.
    #[test]
    fn the_document_is_up_to_date() {
        let written = fs::read_to_string(Path::new(MANIFEST).join("COVERAGE.md")).unwrap_or_default();
        assert!(
            written == document(),
            "print it anew: cargo run -p spec-tests -- --coverage >spec-tests/COVERAGE.md"
        );
    }

    /// No row is empty, and what it names exists.
    #[test]
    fn every_sentence_is_checked_by_what_exists() {
        let sources = Path::new(MANIFEST).join("../runtime");
        for (document, rows) in DOCUMENTS {
            for row in rows {
                let (cases, tests): (&[&str], &[&str]) = match row.by {
                    By::Cases(cases) => (cases, &[]),
                    By::Unit(cases, tests) => (cases, tests),
                    By::Others(reason) => {
                        assert!(reason.len() > 10, "{document}: {}", row.words);
                        continue;
                    }
                };
                assert!(!cases.is_empty() || !tests.is_empty(), "{document}: {}: nothing", row.words);
                for name in cases {
                    assert!(
                        crate::cases::all().any(|case| case.name == *name),
                        "{}: no case {name}",
                        row.words
                    );
                }
                for test in tests {
                    let (module, name) = test.rsplit_once("::").unwrap();
                    let file = module.trim_end_matches("::tests").replace("::", "/");
                    let places = [
                        format!("src/{file}.rs"),
                        format!("src/{file}/tests.rs"),
                        format!("tests/{file}.rs"),
                    ];
                    let found =
                        places.iter().filter_map(|place| fs::read_to_string(sources.join(place)).ok());
                    let wanted = format!("fn {name}()");
                    assert!(
                        found.into_iter().any(|text| text.contains(&wanted)),
                        "{}: no test {test}",
                        row.words
                    );
                }
            }
        }
    }

    #[test]
    fn sentences_are_found() {
        let text = "* **`a`** (string, REQUIRED) is it.\n```\nMUST\n```\nIt MAY, but the [x](y#z) MUST do. It SHOULD. Or MUSTARD.";
        let found: Vec<String> =
            normative(text).into_iter().map(|(_, sentence)| letters(&sentence)).collect();
        assert_eq!(found, ["astringREQUIREDisit", "ItMAYbutthexMUSTdo"]);
    }
}
