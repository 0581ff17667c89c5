//! config.json: whatever the bytes are, a verdict without a panic; what is accepted can be planned, and is accepted again
//! when it is written out (security.md G5, G6).
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use skeg::cgroup::{self, Hierarchies, Options};
use skeg::plan::{Plan, facts};
use skeg::sys::procfs::Procfs;
use skeg::{bundle, log, rdt};

/// Those of the machine that fuzzes: where things would go, which nothing here touches.
static HIERARCHIES: LazyLock<Hierarchies> = LazyLock::new(|| {
    let procfs = Procfs::mounted().expect("procfs");
    Hierarchies::detect(&procfs, true).expect("cgroup hierarchies")
});

fuzz_target!(|text: &[u8]| {
    let loaded = match bundle::parse_config(text.to_vec()) {
        Ok(loaded) => loaded,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // To nowhere: what would be said must be sayable.
    loaded.warn(&mut log::Log::stderr(log::Level::Warning));
    let Ok(_warnings) = bundle::validate(&loaded.value) else { return };
    let written = serde_json::to_vec(&loaded.value).expect("a configuration as text");
    let again = bundle::parse_config(written).expect("what was written by us is read by us");
    bundle::validate(&again.value).expect("what was accepted is accepted");
    let _group = rdt::Group::of(&loaded.value, "fuzz");
    if let Ok(cgroup) = cgroup::plan(&loaded.value, "fuzz", Options::default(), &HIERARCHIES) {
        let _plan = Plan::new(&loaded.value, facts(false, &cgroup));
    }
});
