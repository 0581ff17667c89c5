//! Where in a JSON text something stands: from an offset to a JSON pointer (RFC 6901).
//!
//! serde_json says line and column. A second deserializer that keeps track of the path (serde_path_to_error) would
//! bring all types of the specification into the program once more (465 KB on top of 2.1 MB, measured); this walk
//! over the text is a page, and it runs only when there is an error to report.

use std::ops::Range;

/// The pointer of the innermost value or key that ends at `offset` or has it inside, or of the object or array that
/// starts there: serde_json looks at a bracket before it takes it.
pub fn at(text: &[u8], offset: usize) -> String {
    let before_bracket = matches!(text.get(offset), Some(b'{' | b'['));
    let wanted = |token: Range<usize>| match before_bracket {
        true => token.start == offset,
        false => token.start < offset && offset <= token.end,
    };
    find(text, wanted).unwrap_or_default()
}

/// The pointer of the first string with a NUL in it (`\u0000`).
pub fn of_nul(text: &[u8]) -> Option<String> {
    find(text, |token| text[token.start] == b'"' && has_nul(&text[token]))
}

/// Whether a string, as it is written, has the escape for NUL.
fn has_nul(quoted: &[u8]) -> bool {
    let mut rest = quoted;
    while let Some(at) = rest.iter().position(|&c| c == b'\\') {
        rest = &rest[at + 1..];
        if rest.starts_with(b"u0000") {
            return true;
        }
        // The escaped character is no start of another escape.
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// An object or array that the walk is in.
struct Open {
    start: usize,
    /// The key in an object (none before it), or the index in an array.
    step: Step,
}

enum Step {
    Key(Option<Range<usize>>),
    Index(usize),
}

/// Walks over `text` without recursion and asks for each key, each value and, at their ends, each object and array.
/// Text that is no JSON ends somewhere, too.
fn find(text: &[u8], mut wanted: impl FnMut(Range<usize>) -> bool) -> Option<String> {
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        let token = match c {
            b'{' | b'[' => {
                let step = if c == b'{' { Step::Key(None) } else { Step::Index(0) };
                open.push(Open { start: at, step });
                at += 1;
                continue;
            }
            b',' => {
                match open.last_mut().map(|inner| &mut inner.step) {
                    Some(Step::Key(key)) => *key = None,
                    Some(Step::Index(index)) => *index += 1,
                    None => {}
                }
                at += 1;
                continue;
            }
            b':' | b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'}' | b']' => open.pop().map_or(at, |inner| inner.start)..at + 1,
            b'"' => {
                let token = at..string_end(text, at);
                if let Some(Open { step: Step::Key(key @ None), .. }) = open.last_mut() {
                    *key = Some(token.clone());
                }
                token
            }
            _ => {
                let length = text[at..].iter().position(|c| b",:{}[]\" \t\r\n".contains(c));
                at..length.map_or(text.len(), |length| at + length)
            }
        };
        at = token.end;
        if wanted(token) {
            return Some(pointer_of(text, &open));
        }
    }
    None
}

/// The end of the string that starts at `start`, after its closing quote.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&c) = text.get(at) {
        match c {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn pointer_of(text: &[u8], open: &[Open]) -> String {
    let mut pointer = String::new();
    for inner in open {
        match &inner.step {
            Step::Key(None) => {}
            Step::Key(Some(key)) => {
                pointer.push('/');
                let quoted = &text[key.clone()];
                match serde_json::from_slice::<String>(quoted) {
                    Ok(key) => push_escaped(&mut pointer, &key),
                    Err(_) => push_escaped(&mut pointer, &String::from_utf8_lossy(quoted)),
                }
            }
            Step::Index(index) => {
                pointer.push('/');
                pointer.push_str(&index.to_string());
            }
        }
    }
    pointer
}

/// Adds a key with `~` and `/` escaped as RFC 6901 has it.
pub fn push_escaped(pointer: &mut String, key: &str) {
    for c in key.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"a": [1, {"b~/": "x\"y"}, [[]]], "c": {"d": true}}"#;

    fn pointer(needle: &str) -> String {
        at(TEXT.as_bytes(), TEXT.find(needle).unwrap() + needle.len())
    }

    #[test]
    fn offsets_become_pointers() {
        for (needle, expected) in [
            ("1", "/a/0"),
            ("\"b~/\"", "/a/1/b~0~1"),
            ("x\\\"y\"", "/a/1/b~0~1"),
            ("y\"}", "/a/1"),
            ("[[]]", "/a/2"),
            ("\"c\"", "/c"),
            ("tru", "/c/d"),
            ("true}", "/c"),
            ("true}}", ""),
            ("\"a\": ", "/a"),
            ("[1, ", "/a/1"),
            ("}, ", "/a/2"),
        ] {
            assert_eq!(pointer(needle), expected, "{needle}");
        }
    }

    /// security.md G5: NUL by every way of writing it, and only it.
    #[test]
    fn g5_nul_is_found() {
        for (text, expected) in [
            (r#"{"a": "x\u0000"}"#, Some("/a")),
            (r#"{"a": ["\\\u0000"]}"#, Some("/a/0")),
            (r#"{"a\u0000": 1}"#, Some("/a\0")),
            (r#"{"a": "\\u0000"}"#, None),
            (r#"{"a": "\u00001"}"#, Some("/a")),
            (r#"{"a": "\u0001\""}"#, None),
        ] {
            assert_eq!(of_nul(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    /// security.md G5: text that is no JSON ends the walk, too.
    #[test]
    fn g5_broken_text_ends() {
        for text in ["", "}", "]]]", ",,", "\"", "\"\\", "{\"a\"", "[1", "{:}", "\u{1}", "{\"a\":\"b\"\"c\""]
        {
            for offset in 0..=text.len() + 1 {
                at(text.as_bytes(), offset);
            }
            of_nul(text.as_bytes());
        }
        let deep = "[".repeat(1 << 20);
        assert_eq!(at(deep.as_bytes(), deep.len()), "");
    }
}
