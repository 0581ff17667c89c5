//! The mutants of `spec-tests/mutants`: patches of the runtime or the shim that turn one check off, and name the tests that have to notice.

use std::fs;

use super::root;

/// One of them.
pub struct Mutant {
    /// The row whose check it turns off: the first word of its name.
    pub row: String,
    /// Its file, without the ending.
    pub name: String,
    /// The tests that notice, as `scripts/mutants` reads them.
    pub proofs: Vec<String>,
}

impl Mutant {
    /// Whether it names this test of this kind. Sweeps have no names: those of its row are meant.
    pub fn is_noticed_by(&self, row: &str, kind: &str, test: &str) -> bool {
        self.proofs.iter().any(|proof| match proof.split_once(' ') {
            Some(("sweep", _)) => kind == "sweep" && row == self.row,
            Some(("compile" | "guest-unit", name)) => kind == "unit" && name == test,
            Some(("guest", name)) => kind == "spec" && name == test,
            Some((its_kind, names)) => its_kind == kind && names.rsplit(' ').next() == Some(test),
            None => false,
        })
    }
}

/// All, in order of their names.
pub fn all() -> Vec<Mutant> {
    let entries = fs::read_dir(root().join("spec-tests/mutants")).into_iter().flatten().flatten();
    let mut found: Vec<Mutant> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().strip_suffix(".patch")?.to_owned();
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let proofs = text.lines().filter_map(|line| line.strip_prefix("Fails: "));
            let proofs = proofs.map(str::to_owned).collect();
            Some(Mutant { row: name.split('-').next()?.to_owned(), name, proofs })
        })
        .collect();
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::cases;
    use crate::security_coverage::rows::ROWS;
    use crate::security_coverage::takes_guest;

    /// Patches rot where the sources move on: each applies to the sources as they are.
    #[test]
    fn every_mutant_applies() {
        for mutant in all() {
            let patch = Path::new("spec-tests/mutants").join(format!("{}.patch", mutant.name));
            let git = Command::new("git").args(["apply", "--check"]).arg(patch).current_dir(root()).output();
            let said = git.unwrap();
            assert!(said.status.success(), "{}: {}", mutant.name, String::from_utf8_lossy(&said.stderr));
        }
    }

    /// Each is of a row, and names tests that are there.
    #[test]
    fn every_mutant_names_its_row_and_its_tests() {
        let sources = |dir: &str| -> String {
            let output = Command::new("grep")
                .args(["-rhE", r#"^ *(fn |\(")[a-z0-9_]+"#, dir])
                .current_dir(root())
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        let (unit, runtime) = (sources("runtime/src"), sources("runtime/tests"));
        let init_unit = sources("init/src");
        let (shim_unit, shim) = (sources("shim/src"), sources("shim/tests"));
        for mutant in all() {
            let Mutant { row, name, proofs } = mutant;
            assert!(ROWS.iter().any(|(known, ..)| *known == row) && !proofs.is_empty(), "{name}");
            for proof in proofs {
                let words: Vec<&str> = proof.split(' ').collect();
                let known = match words.as_slice() {
                    ["spec", case] => cases::all().any(|known| known.name == *case),
                    // scripts/mutants knows by the name what kind of a guest it takes, and tries no others.
                    ["guest", case] => takes_guest(case) && cases::all().any(|known| known.name == *case),
                    ["unit" | "guest-unit" | "compile", test] => unit.contains(&format!("fn {test}(")),
                    ["runtime", file, test] => {
                        let dir = root().join("runtime/tests");
                        (dir.join(file).exists() || dir.join(format!("{file}.rs")).exists())
                            && (runtime.contains(&format!("fn {test}("))
                                || runtime.contains(&format!("(\"{test}\"")))
                    }
                    ["init-unit", test] => init_unit.contains(&format!("fn {test}(")),
                    ["shim-unit", test] => shim_unit.contains(&format!("fn {test}(")),
                    ["shim", file, test] => {
                        root().join(format!("shim/tests/{file}.rs")).exists()
                            && shim.contains(&format!("fn {test}("))
                    }
                    ["sweep", ..] => true,
                    _ => false,
                };
                assert!(known, "{name}: {proof:?}");
            }
        }
    }
}
