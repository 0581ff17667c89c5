//! Black-box conformance tests for OCI runtimes.
//!
//! One statically linked program with three roles: the test suite, the process of one case, and, under the name
//! `probe` in a container's rootfs, the program that looks around inside (see `inside.rs`).
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code, reason = "the test harness has its own main"))]
#![recursion_limit = "256"]
#![allow(
    clippy::disallowed_methods,
    reason = "the rules about paths and processes are the runtime's; this crate is a test harness outside of it"
)]

mod auditor;
mod cases;
mod cgroups;
mod compare;
mod config;
mod coverage;
mod demo;
mod deviations;
mod failure;
mod harness;
mod host;
mod inside;
mod leftovers;
mod options;
mod policy;
mod probe;
mod recorder;
mod runner;
mod sacrificial;
mod security_coverage;
mod shim;
mod sweep;
mod sys;
mod terminal;
mod tracer;

use std::path::Path;

/// What the C entry point calls; without the standard library's own `main` nobody else flushes standard output.
fn entry() -> i32 {
    let status = role();
    let _closed = std::io::Write::flush(&mut std::io::stdout());
    status
}

fn role() -> i32 {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    if Path::new(&name).file_name().is_some_and(|file| file == "probe") {
        // On the host the role's name may be given as well; under its own name the program has no other role.
        let named = arguments.first().is_some_and(|first| first == "probe");
        return inside::run(&arguments[usize::from(named)..]);
    }
    match arguments.first().map(String::as_str) {
        Some("probe") => inside::run(&arguments[1..]),
        Some("demo") => demo::run(&arguments[1..]),
        Some("sweep") => sweep::run(&arguments[1..]),
        Some("shim-walk") => shim::walk::run(&arguments[1..]),
        Some("shim-sweep") => shim::sweep::run(&arguments[1..]),
        Some("policy") => policy::run(&arguments[1..]),
        Some(runner::CASE_ROLE) => runner::case_process(&arguments[1..]),
        _ => suite(&arguments),
    }
}

fn suite(arguments: &[String]) -> i32 {
    // The bundles are for users of all kinds, whatever the caller lets others have of its own.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let options = match options::parse(arguments) {
        Ok(options::Parsed::Run(options)) => options,
        Ok(options::Parsed::Help) => {
            println!("{}", options::USAGE);
            return 0;
        }
        Ok(options::Parsed::List) => {
            for case in cases::all() {
                println!("{:<44} {}", case.name, case.checks);
            }
            return 0;
        }
        Ok(options::Parsed::Coverage(None)) => {
            print!("{}", coverage::document());
            return 0;
        }
        Ok(options::Parsed::SecurityCoverage) => {
            print!("{}", security_coverage::document());
            return 0;
        }
        Ok(options::Parsed::Coverage(Some(specification))) => return hold_against(&specification),
        Err(text) => {
            eprintln!("spec-tests: {text}\n{}", options::USAGE);
            return 2;
        }
    };
    let result = match &options.compare {
        Some(other) => compare::run(&options, other),
        None => runner::run(&options),
    };
    match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(failure::Failure::Failed(text) | failure::Failure::Skipped(text)) => {
            eprintln!("spec-tests: {text}");
            1
        }
    }
}

fn hold_against(specification: &Path) -> i32 {
    match coverage::missing(specification) {
        Ok(missing) => {
            missing.iter().for_each(|sentence| println!("{sentence}"));
            println!("{} sentences without a row", missing.len());
            i32::from(!missing.is_empty())
        }
        Err(failure::Failure::Failed(text) | failure::Failure::Skipped(text)) => {
            eprintln!("spec-tests: {text}");
            1
        }
    }
}
