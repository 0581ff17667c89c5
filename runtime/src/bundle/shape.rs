//! Arrays in the place of objects: serde takes `["linux"]` for a structure, field by field in the order of its
//! declaration. The specification does not (config.md: "Runtimes ... MUST generate an error when invalid ... values
//! are encountered").

use serde::Serialize;
use serde_json::Value;

use super::pointer::push_escaped;

/// The properties whose value is an object in every one of the specification's types.
const OBJECTS: [&[u8]; 22] = [
    b"process",
    b"user",
    b"capabilities",
    b"consoleSize",
    b"scheduler",
    b"ioPriority",
    b"execCPUAffinity",
    b"root",
    b"hooks",
    b"linux",
    b"resources",
    b"memory",
    b"cpu",
    b"pids",
    b"blockIO",
    b"network",
    b"seccomp",
    b"intelRdt",
    b"personality",
    b"memoryPolicy",
    b"monotonic",
    b"boottime",
];

/// The pointer of the first array in `text` that `value`, which was read from it, has taken for an object.
pub fn array_for_object(text: &[u8], value: &impl Serialize) -> Option<String> {
    if !has_suspect(text) {
        return None;
    }
    let given: Value = serde_json::from_slice(text).ok()?;
    let known = serde_json::to_value(value).ok()?;
    let mut pointer = String::new();
    find(&given, &known, &mut pointer).then_some(pointer)
}

/// Whether any array could be in the place of an object: inside another array, which the specification never has, or as
/// the value of one of [`OBJECTS`]. One look at each bracket, so that every configuration can be checked.
fn has_suspect(text: &[u8]) -> bool {
    text.iter().enumerate().filter(|(_, byte)| **byte == b'[').any(|(at, _)| {
        let before = text[..at].trim_ascii_end();
        match before.split_last() {
            Some((b'[' | b',', _)) => true,
            Some((b':', before)) => {
                let key = before.trim_ascii_end().strip_suffix(b"\"").unwrap_or_default();
                OBJECTS.iter().any(|name| key.strip_suffix(*name).is_some_and(|rest| rest.ends_with(b"\"")))
            }
            _ => false,
        }
    })
}

fn find(given: &Value, known: &Value, pointer: &mut String) -> bool {
    let length = pointer.len();
    let mut descend = |step: &str, given: &Value, known: &Value| {
        pointer.push('/');
        push_escaped(pointer, step);
        let found = find(given, known, pointer);
        if !found {
            pointer.truncate(length);
        }
        found
    };
    match (given, known) {
        (Value::Array(_), Value::Object(_)) => true,
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .enumerate()
            .any(|(at, (given, known))| descend(&at.to_string(), given, known)),
        (Value::Object(given), Value::Object(known)) => {
            given.iter().any(|(key, given)| known.get(key).is_some_and(|known| descend(key, given, known)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;

    fn check(text: &str) -> Option<String> {
        let spec: Spec = serde_json::from_str(text).unwrap();
        array_for_object(text.as_bytes(), &spec)
    }

    /// security.md G6: a value of the wrong type is an error, whatever a library makes of it.
    #[test]
    fn g6_arrays_are_no_objects() {
        assert_eq!(check(r#"{"ociVersion":"1.0.0","hooks":[]}"#).as_deref(), Some("/hooks"));
        assert_eq!(check(r#"{"ociVersion":"1.0.0","root" : ["rootfs"]}"#).as_deref(), Some("/root"));
        let mounts = r#"{"ociVersion":"1.0.0","mounts":[{"destination":"/a"},["/b"]]}"#;
        assert_eq!(check(mounts).as_deref(), Some("/mounts/1"));
    }

    /// config.md, Extensibility: what is unknown is ignored, whatever its shape.
    #[test]
    fn unknown_properties_may_have_any_shape() {
        assert_eq!(
            check(r#"{"ociVersion":"1.0.0","x":{"memory":[[1]]},"mounts":[{"destination":"/a"}]}"#),
            None
        );
    }
}
