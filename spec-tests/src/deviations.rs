//! Where a runtime is known not to do what a case asks, and why. A failure listed here counts as skipped; a case
//! listed here that passes is pointed out, so that the list cannot rot.

/// (the first word of the runtime's `--version`, the case, the reason)
const KNOWN: &[(&str, &str, &str)] =
    &[("runc", "kill_by_real_time_name", "runc 1.1 knows real-time signals by number only")];

/// The reason why this runtime is known to fail this case.
pub fn reason(kind: &str, case: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(runtime, name, _)| *runtime == kind && *name == case).map(|(_, _, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deviation_names_a_case() {
        for (_, name, reason) in KNOWN {
            assert!(crate::cases::all().any(|case| case.name == *name), "no case {name}");
            assert!(reason.len() > 10, "{name}: a reason is a sentence");
        }
    }
}
