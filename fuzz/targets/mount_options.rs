//! Mount options, one a line: read without a panic; no attribute is both set and cleared; the same options twice mean the
//! same; nothing of a value becomes an option of its own (security.md A15).
#![no_main]

use libfuzzer_sys::fuzz_target;
use skeg::rootfs::options::{Options, TABLE};

fuzz_target!(|text: &str| {
    let options: Vec<String> = text.lines().map(str::to_owned).collect();
    let parsed = Options::parse(&options);
    for attributes in [&parsed.top, &parsed.tree] {
        assert_eq!(attributes.set() & attributes.clear() & !ACCESS_TIME, 0, "{options:?}");
    }
    let merged = parsed.top.merged(&parsed.tree);
    assert_eq!(
        merged.set() & parsed.tree.set(),
        parsed.tree.set(),
        "what is asked for the tree holds at the top"
    );
    for (key, value) in &parsed.parameters {
        let whole = value.as_ref().map_or_else(|| key.clone(), |value| format!("{key}={value}"));
        assert!(options.contains(&whole), "{key:?} {value:?} of {options:?}");
        assert!(TABLE.iter().all(|(name, _)| *name != whole), "{whole:?} is an option of the specification");
    }
    let twice = Options::parse(&options.iter().chain(&options).cloned().collect::<Vec<_>>());
    assert_eq!((&parsed.top, &parsed.tree), (&twice.top, &twice.tree), "{options:?}");
    assert_eq!((parsed.bind, parsed.id_map), (twice.bind, twice.id_map));
});

/// `MOUNT_ATTR__ATIME` of linux/mount.h: a field, which is cleared whenever it is set.
const ACCESS_TIME: u64 = 0x70;
