//! Properties that no version of the specification up to 1.3 knows: "Runtimes MAY log unknown properties but MUST
//! otherwise ignore them" (config.md, extensibility).
//!
//! One more reading of the text, without values: names against [`SPEC`], and what is unknown is skipped whole. Bookkeeping
//! in the first reading (serde_ignored) was 354 KB of code.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::pointer::push_escaped;

/// The most that is listed: the log is for people.
const MOST: usize = 20;

/// What a property may hold. Arrays are those of their elements.
#[derive(Clone, Copy)]
enum Node {
    /// A value, a map of free keys to values, or a part of the specification for other platforms.
    Leaf,
    /// An object of these properties.
    Object(&'static [(&'static str, Node)]),
    /// Free keys, each with an object of these properties.
    Map(&'static [(&'static str, Node)]),
}

use Node::{Leaf, Map, Object};

const ID_MAPPINGS: Node = Object(&[("containerID", Leaf), ("hostID", Leaf), ("size", Leaf)]);
const HOOK: Node = Object(&[("path", Leaf), ("args", Leaf), ("env", Leaf), ("timeout", Leaf)]);
const THROTTLE: Node = Object(&[("major", Leaf), ("minor", Leaf), ("rate", Leaf)]);

/// config.json (config.md).
pub const SPEC: Known = Known(Object(&[
    ("ociVersion", Leaf),
    ("root", Object(&[("path", Leaf), ("readonly", Leaf)])),
    (
        "mounts",
        Object(&[
            ("destination", Leaf),
            ("type", Leaf),
            ("source", Leaf),
            ("options", Leaf),
            ("uidMappings", ID_MAPPINGS),
            ("gidMappings", ID_MAPPINGS),
        ]),
    ),
    ("process", PROCESS.0),
    ("hostname", Leaf),
    ("domainname", Leaf),
    (
        "hooks",
        Object(&[
            ("prestart", HOOK),
            ("createRuntime", HOOK),
            ("createContainer", HOOK),
            ("startContainer", HOOK),
            ("poststart", HOOK),
            ("poststop", HOOK),
        ]),
    ),
    ("annotations", Leaf),
    ("linux", LINUX),
    ("freebsd", Leaf),
    ("solaris", Leaf),
    ("vm", Leaf),
    ("windows", Leaf),
    ("zos", Leaf),
]));

/// The process object, as `exec --process` has it too (config.md, process).
pub const PROCESS: Known = Known(Object(&[
    ("terminal", Leaf),
    ("consoleSize", Object(&[("height", Leaf), ("width", Leaf)])),
    (
        "user",
        Object(&[
            ("uid", Leaf),
            ("gid", Leaf),
            ("umask", Leaf),
            ("additionalGids", Leaf),
            ("username", Leaf),
        ]),
    ),
    ("args", Leaf),
    ("commandLine", Leaf),
    ("env", Leaf),
    ("cwd", Leaf),
    (
        "capabilities",
        Object(&[
            ("bounding", Leaf),
            ("effective", Leaf),
            ("inheritable", Leaf),
            ("permitted", Leaf),
            ("ambient", Leaf),
        ]),
    ),
    ("rlimits", Object(&[("type", Leaf), ("hard", Leaf), ("soft", Leaf)])),
    ("noNewPrivileges", Leaf),
    ("apparmorProfile", Leaf),
    ("oomScoreAdj", Leaf),
    ("selinuxLabel", Leaf),
    ("ioPriority", Object(&[("class", Leaf), ("priority", Leaf)])),
    (
        "scheduler",
        Object(&[
            ("policy", Leaf),
            ("nice", Leaf),
            ("priority", Leaf),
            ("flags", Leaf),
            ("runtime", Leaf),
            ("deadline", Leaf),
            ("period", Leaf),
        ]),
    ),
    ("execCPUAffinity", Object(&[("initial", Leaf), ("final", Leaf)])),
]));

/// config-linux.md. `intelRdt.enableCMT` and `enableMBM` of 1.1 are gone since 1.3, which has `enableMonitoring` for them.
const LINUX: Node = Object(&[
    ("netDevices", Map(&[("name", Leaf)])),
    ("uidMappings", ID_MAPPINGS),
    ("gidMappings", ID_MAPPINGS),
    ("sysctl", Leaf),
    ("resources", RESOURCES.0),
    ("cgroupsPath", Leaf),
    ("namespaces", Object(&[("type", Leaf), ("path", Leaf)])),
    (
        "devices",
        Object(&[
            ("path", Leaf),
            ("type", Leaf),
            ("major", Leaf),
            ("minor", Leaf),
            ("fileMode", Leaf),
            ("uid", Leaf),
            ("gid", Leaf),
        ]),
    ),
    ("seccomp", SECCOMP),
    ("rootfsPropagation", Leaf),
    ("maskedPaths", Leaf),
    ("readonlyPaths", Leaf),
    ("mountLabel", Leaf),
    (
        "intelRdt",
        Object(&[
            ("closID", Leaf),
            ("schemata", Leaf),
            ("l3CacheSchema", Leaf),
            ("memBwSchema", Leaf),
            ("enableMonitoring", Leaf),
        ]),
    ),
    ("memoryPolicy", Object(&[("mode", Leaf), ("nodes", Leaf), ("flags", Leaf)])),
    ("personality", Object(&[("domain", Leaf), ("flags", Leaf)])),
    ("timeOffsets", Map(&[("secs", Leaf), ("nanosecs", Leaf)])),
]);

/// The resources object, as `update --resources` has it too (config-linux.md, control groups).
pub const RESOURCES: Known = Known(Object(&[
    (
        "devices",
        Object(&[("allow", Leaf), ("type", Leaf), ("major", Leaf), ("minor", Leaf), ("access", Leaf)]),
    ),
    (
        "memory",
        Object(&[
            ("limit", Leaf),
            ("reservation", Leaf),
            ("swap", Leaf),
            ("kernel", Leaf),
            ("kernelTCP", Leaf),
            ("swappiness", Leaf),
            ("disableOOMKiller", Leaf),
            ("useHierarchy", Leaf),
            ("checkBeforeUpdate", Leaf),
        ]),
    ),
    (
        "cpu",
        Object(&[
            ("shares", Leaf),
            ("quota", Leaf),
            ("burst", Leaf),
            ("period", Leaf),
            ("realtimeRuntime", Leaf),
            ("realtimePeriod", Leaf),
            ("cpus", Leaf),
            ("mems", Leaf),
            ("idle", Leaf),
        ]),
    ),
    ("pids", Object(&[("limit", Leaf)])),
    (
        "blockIO",
        Object(&[
            ("weight", Leaf),
            ("leafWeight", Leaf),
            (
                "weightDevice",
                Object(&[("major", Leaf), ("minor", Leaf), ("weight", Leaf), ("leafWeight", Leaf)]),
            ),
            ("throttleReadBpsDevice", THROTTLE),
            ("throttleWriteBpsDevice", THROTTLE),
            ("throttleReadIOPSDevice", THROTTLE),
            ("throttleWriteIOPSDevice", THROTTLE),
        ]),
    ),
    ("hugepageLimits", Object(&[("pageSize", Leaf), ("limit", Leaf)])),
    ("network", Object(&[("classID", Leaf), ("priorities", Object(&[("name", Leaf), ("priority", Leaf)]))])),
    ("rdma", Map(&[("hcaHandles", Leaf), ("hcaObjects", Leaf)])),
    ("unified", Leaf),
]));

const SECCOMP: Node = Object(&[
    ("defaultAction", Leaf),
    ("defaultErrnoRet", Leaf),
    ("architectures", Leaf),
    ("flags", Leaf),
    ("listenerPath", Leaf),
    ("listenerMetadata", Leaf),
    (
        "syscalls",
        Object(&[
            ("names", Leaf),
            ("action", Leaf),
            ("errnoRet", Leaf),
            ("args", Object(&[("index", Leaf), ("value", Leaf), ("valueTwo", Leaf), ("op", Leaf)])),
        ]),
    ),
]);

/// What an object of the specification may have.
#[derive(Clone, Copy)]
pub struct Known(Node);

impl fmt::Debug for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("Known")
    }
}

impl Known {
    /// The pointers of the properties of `text`, an object of this kind, that the specification does not have; the first
    /// [`MOST`] of them.
    pub fn unknown_in(self, text: &[u8]) -> Vec<String> {
        let mut found = Found { pointer: String::new(), unknown: Vec::new() };
        let mut reader = serde_json::Deserializer::from_slice(text);
        // Text that could not be read is another's error.
        let _ = Walk { node: self.0, found: &mut found }.deserialize(&mut reader);
        found.unknown
    }
}

struct Found {
    /// Where the walk is.
    pointer: String,
    unknown: Vec<String>,
}

struct Walk<'f> {
    node: Node,
    found: &'f mut Found,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.node {
            Leaf => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            Object(_) | Map(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<str>>()? {
            let length = self.found.pointer.len();
            self.found.pointer.push('/');
            push_escaped(&mut self.found.pointer, &key);
            let below = match self.node {
                Object(known) => known.iter().find(|(name, _)| *name == key).map(|(_, below)| *below),
                Map(properties) => Some(Object(properties)),
                Leaf => Some(Leaf),
            };
            if below.is_none() && self.found.unknown.len() < MOST {
                self.found.unknown.push(self.found.pointer.clone());
            }
            map.next_value_seed(Walk { node: below.unwrap_or(Leaf), found: self.found })?;
            self.found.pointer.truncate(length);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let length = self.found.pointer.len();
        for index in 0_usize.. {
            self.found.pointer.push_str(&format!("/{index}"));
            let more = elements.next_element_seed(Walk { node: self.node, found: self.found })?;
            self.found.pointer.truncate(length);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxResources, Spec};
    use serde_json::{Value, json};

    use super::*;

    /// config.md, extensibility: of any depth and shape, in arrays and in maps of free keys.
    #[test]
    fn unknown_properties_are_listed() {
        let text = r#"{"ociVersion": 1, "x": {"deep": [[{}]]}, "mounts": [{"destination": "/", "a/b": null}],
            "linux": {"sysctl": {"any": ""}, "netDevices": {"eth0": {"name": "", "mtu": 1}}, "resources": {"pids": 5}},
            "annotations": {"k": "v"}, "process": {"user": {"uid": 0, "login": ""}, "path": ""}, "windows": {"x": 1}}"#;
        assert_eq!(
            SPEC.unknown_in(text.as_bytes()),
            ["/x", "/mounts/0/a~1b", "/linux/netDevices/eth0/mtu", "/process/user/login", "/process/path"]
        );
        assert_eq!(RESOURCES.unknown_in(br#"{"cpu": {"shares": 1, "share": 1}}"#), ["/cpu/share"]);
        let many: Value = (0..100).map(|number| (format!("p{number}"), json!(1))).collect();
        assert_eq!(SPEC.unknown_in(many.to_string().as_bytes()).len(), MOST);
        for text in ["", "[", "{\"a\"", "[[]]", "7", "{\"linux\": [1, \"x\", -1, 1.5, true, null]}"] {
            SPEC.unknown_in(text.as_bytes());
        }
    }

    /// Puts `value` at each property of the table and hands over the pointer and the document.
    fn each(node: Node, path: &mut Vec<String>, check: &mut impl FnMut(&[String])) {
        let (properties, step) = match node {
            Leaf => return,
            Object(properties) => (properties, None),
            Map(properties) => (properties, Some("key".to_owned())),
        };
        path.extend(step.clone());
        for (name, below) in properties {
            path.push((*name).to_owned());
            check(path);
            each(*below, path, check);
            path.pop();
        }
        path.truncate(path.len() - usize::from(step.is_some()));
    }

    /// Whether a type reads the property at `path`: some value there is an error whose pointer is that of the property.
    /// Each object on the way is tried as it is and as an element of an array.
    fn is_read<T: serde::de::DeserializeOwned + serde::Serialize>(known: Known, path: &[String]) -> bool {
        (0..1 << (path.len() - 1)).any(|arrays: usize| {
            [json!({"\u{1}": 1}), json!(-1.5), json!("\u{1}"), json!([[]])].into_iter().any(|mut value| {
                let mut pointer = String::new();
                for (depth, step) in path.iter().enumerate() {
                    pointer.push_str(if depth > 0 && arrays & (1 << (depth - 1)) != 0 { "/0/" } else { "/" });
                    pointer.push_str(step);
                }
                for (depth, step) in path.iter().enumerate().rev() {
                    value = json!({ step: value });
                    if depth > 0 && arrays & (1 << (depth - 1)) != 0 {
                        value = json!([value]);
                    }
                }
                let parsed = super::super::parse::<T>("", "", known, value.to_string().into_bytes());
                let at = |error: crate::error::Error| error.to_string().split(": ").next().map(str::to_owned);
                parsed.err().and_then(at).is_some_and(|found| {
                    found.strip_prefix(&pointer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
            })
        })
    }

    /// The table has no name that oci-spec's types do not read, so that nothing is ignored in silence.
    #[test]
    fn every_property_of_the_table_is_read() {
        each(SPEC.0, &mut Vec::new(), &mut |path| {
            // FreeBSD's part is newer than oci-spec, and is not for this platform.
            assert!(path == ["freebsd"] || is_read::<Spec>(SPEC, path), "{path:?}");
        });
        each(RESOURCES.0, &mut Vec::new(), &mut |path| {
            assert!(is_read::<LinuxResources>(RESOURCES, path), "{path:?}");
        });
    }
}
