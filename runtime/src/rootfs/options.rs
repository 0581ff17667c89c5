//! Mount options: from the names in `mounts[].options` to what the mount API takes.
//!
//! Every name of the runtime specification (config.md, "Linux mount options") is in [`TABLE`]; a name that is not goes
//! to the file system, one option one parameter (row A15: `size=1m,mode=0777` inside one option stays one value).
//! Options count in their order, so that the last of `ro` and `rw` holds.
//!
//! Three kinds of flag have to be told apart, since mount(2) mixed them in one word:
//! * attributes of the **mount** (`ro`, `nosuid`, `noatime`...), of its top ([`Options::top`]) or, for the names with
//!   an `r` in front, of the whole tree ([`Options::tree`]): mount_setattr(2);
//! * flags of the **superblock** (`sync`, `lazytime`...): fsconfig(2). A bind mount has no superblock of its own, so
//!   they have no effect on one, as in mount(8);
//! * **propagation** types.

use crate::sys::mount::{attr, propagation};

/// One option name and what it does.
pub type Entry = (&'static str, Effect);

/// What an option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Accepted; the mount API has nothing to set for it (`silent` and `loud` only spoke to the kernel log).
    Nothing,
    /// Sets an attribute.
    Set(Scope, u64),
    /// Clears an attribute.
    Clear(Scope, u64),
    /// Turns one of the three access time flags on or off.
    AccessTime(Scope, AccessTime, bool),
    /// A superblock flag, under the name that fsconfig(2) knows it by.
    Superblock(&'static str),
    /// A propagation type, of the top mount or of the tree.
    Propagation(Scope, u64),
    /// A bind mount, of the top mount or of the tree.
    Bind(Scope),
    /// Changes the mount that is at the destination.
    Remount,
    /// Maps ids, of the top mount or of the tree.
    IdMap(Scope),
    /// The tmpfs starts with what the image has at the destination.
    CopyUp,
}

/// How far an option reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The mount at the destination.
    Top,
    /// That mount and all below it.
    Tree,
}

/// The access time flags of mount(2). They are independent bits there and one value in mount_setattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTime {
    /// `noatime`.
    Never,
    /// `strictatime`, which wins over `noatime` (kernel: path_mount in fs/namespace.c).
    Strict,
    /// `relatime`, the kernel's default.
    Relative,
}

use AccessTime::{Never, Relative, Strict};
use Effect::{Bind, Clear, CopyUp, IdMap, Nothing, Propagation, Remount, Set, Superblock};
use Scope::{Top, Tree};

/// Every option that is not left to the file system. `skeg features` lists the names.
#[rustfmt::skip]
pub const TABLE: &[Entry] = &[
    ("async", Superblock("async")),
    ("atime", Effect::AccessTime(Top, Never, false)),
    ("bind", Bind(Top)),
    ("defaults", Nothing),
    ("dev", Clear(Top, attr::NODEV)),
    ("diratime", Clear(Top, attr::NODIRATIME)),
    ("dirsync", Superblock("dirsync")),
    ("exec", Clear(Top, attr::NOEXEC)),
    ("idmap", IdMap(Top)),
    ("iversion", Superblock("iversion")),
    ("lazytime", Superblock("lazytime")),
    ("loud", Nothing),
    ("mand", Superblock("mand")),
    ("noatime", Effect::AccessTime(Top, Never, true)),
    ("nodev", Set(Top, attr::NODEV)),
    ("nodiratime", Set(Top, attr::NODIRATIME)),
    ("noexec", Set(Top, attr::NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Superblock("nolazytime")),
    ("nomand", Superblock("nomand")),
    ("norelatime", Effect::AccessTime(Top, Relative, false)),
    ("nostrictatime", Effect::AccessTime(Top, Strict, false)),
    ("nosuid", Set(Top, attr::NOSUID)),
    ("nosymfollow", Set(Top, attr::NOSYMFOLLOW)),
    ("private", Propagation(Top, propagation::PRIVATE)),
    ("ratime", Effect::AccessTime(Tree, Never, false)),
    ("rbind", Bind(Tree)),
    ("rdev", Clear(Tree, attr::NODEV)),
    ("rdiratime", Clear(Tree, attr::NODIRATIME)),
    ("relatime", Effect::AccessTime(Top, Relative, true)),
    ("remount", Remount),
    ("rexec", Clear(Tree, attr::NOEXEC)),
    ("ridmap", IdMap(Tree)),
    ("rnoatime", Effect::AccessTime(Tree, Never, true)),
    ("rnodev", Set(Tree, attr::NODEV)),
    ("rnodiratime", Set(Tree, attr::NODIRATIME)),
    ("rnoexec", Set(Tree, attr::NOEXEC)),
    ("rnorelatime", Effect::AccessTime(Tree, Relative, false)),
    ("rnostrictatime", Effect::AccessTime(Tree, Strict, false)),
    ("rnosuid", Set(Tree, attr::NOSUID)),
    ("rnosymfollow", Set(Tree, attr::NOSYMFOLLOW)),
    ("ro", Set(Top, attr::RDONLY)),
    ("rprivate", Propagation(Tree, propagation::PRIVATE)),
    ("rrelatime", Effect::AccessTime(Tree, Relative, true)),
    ("rro", Set(Tree, attr::RDONLY)),
    ("rrw", Clear(Tree, attr::RDONLY)),
    ("rshared", Propagation(Tree, propagation::SHARED)),
    ("rslave", Propagation(Tree, propagation::SLAVE)),
    ("rstrictatime", Effect::AccessTime(Tree, Strict, true)),
    ("rsuid", Clear(Tree, attr::NOSUID)),
    ("rsymfollow", Clear(Tree, attr::NOSYMFOLLOW)),
    ("runbindable", Propagation(Tree, propagation::UNBINDABLE)),
    ("rw", Clear(Top, attr::RDONLY)),
    ("shared", Propagation(Top, propagation::SHARED)),
    ("silent", Nothing),
    ("slave", Propagation(Top, propagation::SLAVE)),
    ("strictatime", Effect::AccessTime(Top, Strict, true)),
    ("suid", Clear(Top, attr::NOSUID)),
    ("symfollow", Clear(Top, attr::NOSYMFOLLOW)),
    ("sync", Superblock("sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(Top, propagation::UNBINDABLE)),
];

/// What [`TABLE`] says about `name`, or none: then it is the file system's own.
pub fn find(name: &str) -> Option<Effect> {
    TABLE.binary_search_by(|(known, _)| known.cmp(&name)).ok().map(|index| TABLE[index].1)
}

/// Attributes as the options name them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Attributes to set, without the access time value.
    bits: u64,
    /// Attributes that an option asks to clear, without the access time value.
    cleared: u64,
    never: bool,
    strict: bool,
    access_time_named: bool,
}

impl Attributes {
    /// No option of this scope was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The attributes to set, [`attr`] values; relatime is the value 0.
    pub fn set(&self) -> u64 {
        let access_time = match (self.strict, self.never) {
            (true, _) => attr::STRICTATIME,
            (false, true) => attr::NOATIME,
            (false, false) => 0,
        };
        self.bits | access_time
    }

    /// The attributes that options ask to clear; the access time field where any option speaks of it, because
    /// mount_setattr(2) changes that value only when the whole field is cleared.
    pub fn clear(&self) -> u64 {
        if self.access_time_named { self.cleared | attr::ATIME } else { self.cleared }
    }

    /// For a bind mount: everything that the options do not set, so that the mount ends up with exactly the flags that
    /// the config lists. This is what runc does, and differs from mount(8), as soon as any of these options is given.
    ///
    /// Kept from the source unless named: the access time settings (the kernel keeps them on a bind remount without
    /// any of them) and `nosymfollow` (mount_setattr(2) knows it only since Linux 5.14).
    pub fn clear_all_others(&self) -> u64 {
        let mut all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        if self.access_time_named || (self.bits | self.cleared) & attr::NODIRATIME != 0 {
            all |= attr::ATIME | attr::NODIRATIME;
        }
        (all | self.clear()) & !self.bits
    }

    /// Both scopes in one, for a mount that has nothing below it.
    #[must_use]
    pub fn merged(mut self, later: &Self) -> Self {
        self.bits = (self.bits & !later.cleared) | later.bits;
        self.cleared = (self.cleared & !later.bits) | later.cleared;
        if later.access_time_named {
            (self.never, self.strict, self.access_time_named) = (later.never, later.strict, true);
        }
        self
    }

    fn turn_on(&mut self, bits: u64) {
        self.bits |= bits;
        self.cleared &= !bits;
    }

    fn turn_off(&mut self, bits: u64) {
        self.bits &= !bits;
        self.cleared |= bits;
    }

    fn access_time(&mut self, which: AccessTime, on: bool) {
        self.access_time_named = true;
        match which {
            Never => self.never = on,
            Strict => self.strict = on,
            // Relative is what is left when the other two are off.
            Relative => {}
        }
    }
}

/// The options of one mount.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    /// Attributes of the mount at the destination.
    pub top: Attributes,
    /// Attributes of that mount and all below it.
    pub tree: Attributes,
    /// Superblock flags for fsconfig(2), in order.
    pub superblock: Vec<&'static str>,
    /// Propagation types in order: `slave` and then `shared` makes a mount both.
    pub propagation: Vec<(Scope, u64)>,
    /// A bind mount, and of what.
    pub bind: Option<Scope>,
    /// Changes the mount that is at the destination.
    pub remount: bool,
    /// Maps ids, and of what.
    pub id_map: Option<Scope>,
    /// The tmpfs starts with what the image has at the destination.
    pub copy_up: bool,
    /// The file system's own parameters in order: a key, and a value where the option has a `=`.
    pub parameters: Vec<(String, Option<String>)>,
}

impl Options {
    /// Reads `options`, each a string of its own.
    pub fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            match find(option) {
                Some(effect) => parsed.apply(effect),
                None if option.is_empty() => {}
                None => parsed.parameters.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.clone(), None),
                }),
            }
        }
        parsed
    }

    /// Whether the mount is to be read only at its top.
    pub fn is_read_only(&self) -> bool {
        self.top.merged(&self.tree).set() & attr::RDONLY != 0
    }

    fn attributes(&mut self, scope: Scope) -> &mut Attributes {
        match scope {
            Top => &mut self.top,
            Tree => &mut self.tree,
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Nothing => {}
            Set(scope, bits) => self.attributes(scope).turn_on(bits),
            Clear(scope, bits) => self.attributes(scope).turn_off(bits),
            Effect::AccessTime(scope, which, on) => self.attributes(scope).access_time(which, on),
            Superblock(name) => self.superblock.push(name),
            Propagation(scope, value) => self.propagation.push((scope, value)),
            Bind(scope) => self.bind = Some(scope),
            Remount => self.remount = true,
            IdMap(scope) => self.id_map = Some(scope),
            CopyUp => self.copy_up = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn table_is_sorted_so_that_find_finds_every_name() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].0, pair[1].0);
        }
        for (name, effect) in TABLE {
            assert_eq!(find(name), Some(*effect), "{name}");
        }
        assert_eq!(find("size"), None);
    }

    /// config.md, "Linux mount options": every name of the specification's table is known.
    #[test]
    fn every_name_of_the_specification_is_known() {
        let names = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev \
             nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid nosymfollow private ratime \
             rbind rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime \
             rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow \
             runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap \
             mand nomand rnodev";
        for name in names.split_whitespace() {
            assert!(find(name).is_some(), "{name}");
        }
    }

    /// The last of two opposite options holds, whatever stands between them, in both scopes.
    #[test]
    fn last_of_two_opposites_holds() {
        for (on, set) in TABLE.iter().filter_map(|(name, effect)| match effect {
            Set(scope, bits) => Some((name, (*scope, *bits))),
            _ => None,
        }) {
            let (off, _) = TABLE.iter().find(|(_, effect)| *effect == Clear(set.0, set.1)).unwrap();
            let mut both = parse(&[off, "sync", "size=1", on]);
            assert_eq!(both.attributes(set.0).set(), set.1, "{off} {on}");
            assert_eq!(both.attributes(set.0).clear(), 0, "{off} {on}");
            let mut both = parse(&[on, "nosymfollow", "rnosymfollow", off]);
            assert_eq!(both.attributes(set.0).set() & set.1 & !attr::NOSYMFOLLOW, 0, "{on} {off}");
            assert_ne!(both.attributes(set.0).clear() & set.1, 0, "{on} {off}");
        }
    }

    /// Every sequence of up to four options: set and clear never overlap, the access time field holds one of its
    /// three values, and its clear mask is whole or absent (mount_setattr(2) gives EINVAL otherwise).
    #[test]
    fn any_sequence_gives_what_mount_setattr_accepts() {
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % bound
        };
        for _ in 0..20_000 {
            let count = next(5);
            let names: Vec<&str> = (0..count).map(|_| TABLE[next(TABLE.len())].0).collect();
            let options = parse(&names);
            assert!(options.parameters.is_empty(), "{names:?}");
            for scope in [options.top, options.tree, options.top.merged(&options.tree)] {
                assert_eq!(scope.set() & scope.clear() & !attr::ATIME, 0, "{names:?}");
                assert_eq!(scope.set() & scope.clear_all_others() & !attr::ATIME, 0, "{names:?}");
                let value = scope.set() & attr::ATIME;
                assert!([0, attr::NOATIME, attr::STRICTATIME].contains(&value), "{names:?}");
                for mask in [scope.clear() & attr::ATIME, scope.clear_all_others() & attr::ATIME] {
                    assert!(mask == 0 || mask == attr::ATIME, "{names:?}");
                    assert!(value == 0 || mask == attr::ATIME, "{names:?}");
                }
            }
        }
    }

    #[test]
    fn access_time_is_one_value() {
        let value = |names: &[&str]| parse(names).top.set() & attr::ATIME;
        assert_eq!(value(&["noatime"]), attr::NOATIME);
        assert_eq!(value(&["noatime", "atime"]), 0);
        assert_eq!(value(&["noatime", "strictatime"]), attr::STRICTATIME);
        assert_eq!(value(&["strictatime", "nostrictatime"]), 0);
        assert_eq!(value(&["noatime", "relatime"]), attr::NOATIME);
        assert_eq!(parse(&["relatime"]).top.clear(), attr::ATIME);
        assert_eq!(parse(&["ro"]).top.clear_all_others() & attr::ATIME, 0);
    }

    /// security.md A15: one option is one parameter, whatever its value contains.
    #[test]
    fn a15_one_option_is_one_parameter() {
        let options = parse(&["size=1m,mode=0777", "lowerdir=/a:/b,ro\\", "context=a=b", "ro "]);
        let expected = [
            ("size", Some("1m,mode=0777")),
            ("lowerdir", Some("/a:/b,ro\\")),
            ("context", Some("a=b")),
            ("ro ", None),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
        assert_eq!(options.parameters, expected);
        assert!(!options.is_read_only());
    }

    /// A bind mount gets exactly the flags that are listed once any is; access times stay unless named.
    #[test]
    fn bind_gets_exactly_the_flags_listed() {
        let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        assert!(parse(&["rbind", "rprivate"]).top.is_empty());
        assert_eq!(parse(&["ro"]).top.clear_all_others(), all & !attr::RDONLY);
        assert_eq!(parse(&["rw"]).top.clear_all_others(), all);
        assert_eq!(parse(&["noatime"]).top.clear_all_others(), all | attr::ATIME | attr::NODIRATIME);
    }

    /// Any list of options means what reading it one by one means: of those that set or clear an attribute the last holds,
    /// parameters and superblock flags keep their order, and nothing else changes anything.
    #[test]
    fn random_lists_mean_what_their_last_words_say() {
        let mut seed: u64 = 7;
        let mut below = |most: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % most
        };
        for _ in 0..20_000 {
            let names: Vec<String> = (0..below(9))
                .map(|_| match below(TABLE.len() + 2) {
                    index if index < TABLE.len() => TABLE[index].0.to_owned(),
                    _ => format!("key{}=a,ro,{}", below(3), below(3)),
                })
                .collect();
            let parsed = Options::parse(&names);
            for (attributes, scope) in [(&parsed.top, Top), (&parsed.tree, Tree)] {
                let (mut set, mut cleared) = (0, 0);
                for name in &names {
                    match find(name) {
                        Some(Set(at, bits)) if at == scope => (set, cleared) = (set | bits, cleared & !bits),
                        Some(Clear(at, bits)) if at == scope => {
                            (set, cleared) = (set & !bits, cleared | bits)
                        }
                        _ => {}
                    }
                }
                assert_eq!(attributes.set() & !attr::ATIME, set, "{names:?}");
                assert_eq!(attributes.clear() & !attr::ATIME, cleared, "{names:?}");
            }
            let keys = parsed.parameters.iter().map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            });
            let expected = names.iter().filter(|name| find(name).is_none()).cloned();
            assert!(keys.eq(expected), "{names:?}: {:?}", parsed.parameters);
        }
    }
}
