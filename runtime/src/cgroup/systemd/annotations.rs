//! `org.systemd.property.NAME`: properties of the scope from annotations, as runc takes them (its `docs/systemd.md`).
//!
//! A value is text in GVariant's notation, as `busctl` and runc have it: `true`, `'text'`, `uint64 5`, `['a', 'b']`,
//! `@au [1]`; a number without a type is `i`. A name that ends in `Sec`, as unit files have it, becomes the `USec` of the
//! bus interface, its number of seconds microseconds.

use std::collections::HashMap;

use crate::cgroup::systemd::properties::Property;
use crate::cgroup::systemd::value::Value;
use crate::error::{Error, Result};

const PREFIX: &str = "org.systemd.property.";

/// How deep arrays may be nested in a value.
const MAX_DEPTH: usize = 4;

/// The properties that the annotations ask for, by name.
///
/// # Errors
/// A name that no property has, or a value that cannot be read, with the JSON pointer of the annotation.
pub fn properties(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut found: Vec<_> =
        annotations.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value))).collect();
    found.sort();
    let property = |(name, text): (&str, &String)| {
        let wrong = |why: &str| Error::new(format!("/annotations/{PREFIX}{name}: {text:?}: {why}"));
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(wrong("the name of a unit property has three letters or more, and nothing else"));
        }
        let value = parse(text).map_err(|why| wrong(&why))?;
        match name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase())) {
            None => Ok(Property { name: name.to_owned(), value }),
            Some(stem) => Ok(Property {
                name: format!("{stem}USec"),
                value: microseconds(&value).ok_or_else(|| wrong("must be a number of seconds"))?,
            }),
        }
    };
    found.into_iter().map(property).collect()
}

/// Seconds as microseconds.
fn microseconds(seconds: &Value) -> Option<Value> {
    let whole = |seconds: u64| seconds.checked_mul(1_000_000);
    let value = match *seconds {
        Value::Byte(n) => whole(n.into()),
        Value::U16(n) => whole(n.into()),
        Value::U32(n) => whole(n.into()),
        Value::U64(n) => whole(n),
        Value::I16(n) => whole(u64::try_from(n).ok()?),
        Value::I32(n) => whole(u64::try_from(n).ok()?),
        Value::I64(n) => whole(u64::try_from(n).ok()?),
        Value::Double(bits) => {
            let span = std::time::Duration::try_from_secs_f64(f64::from_bits(bits)).ok()?;
            u64::try_from(span.as_micros()).ok()
        }
        _ => None,
    };
    value.map(Value::U64)
}

/// Reads one value and nothing after it.
fn parse(text: &str) -> std::result::Result<Value, String> {
    let mut parser = Parser { rest: text };
    let value = parser.value(None, 0)?;
    match parser.word_end() {
        "" => Ok(value),
        rest => Err(format!("{rest:?} after the value")),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

/// What may stand before a number or a text, and the type that it gives.
const KEYWORDS: [(&str, char); 9] = [
    ("boolean", 'b'),
    ("byte", 'y'),
    ("int16", 'n'),
    ("uint16", 'q'),
    ("int32", 'i'),
    ("uint32", 'u'),
    ("int64", 'x'),
    ("uint64", 't'),
    ("double", 'd'),
];

impl<'a> Parser<'a> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn word_end(&mut self) -> &'a str {
        self.skip_spaces();
        self.rest
    }

    fn eat(&mut self, wanted: char) -> bool {
        self.skip_spaces();
        let Some(rest) = self.rest.strip_prefix(wanted) else { return false };
        self.rest = rest;
        true
    }

    /// A run of characters up to a space or a mark.
    fn word(&mut self) -> &'a str {
        self.skip_spaces();
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '['))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A value of the type `wanted`, or of the one that it shows.
    fn value(&mut self, wanted: Option<&str>, depth: usize) -> std::result::Result<Value, String> {
        if self.eat('@') {
            let signature = self.word();
            let signature = if signature.is_empty() { self.array_signature() } else { signature };
            return self.value(Some(signature), depth);
        }
        if self.eat('[') {
            return self.array(wanted, depth);
        }
        if let Some(quote) = ['\'', '"'].into_iter().find(|&quote| self.eat(quote)) {
            let text = self.quoted(quote)?;
            return match wanted {
                None | Some("s") => Ok(Value::Text(text)),
                Some(other) => Err(format!("a text where type {other} is wanted")),
            };
        }
        let word = self.word();
        if let Some((_, kind)) = KEYWORDS.iter().find(|(name, _)| *name == word) {
            let kind = kind.to_string();
            return self.value(Some(&kind), depth);
        }
        if word == "string" {
            return self.value(Some("s"), depth);
        }
        let default = match word {
            "true" | "false" => "b",
            _ if word.contains(['.', 'e']) && !word.starts_with("0x") => "d",
            _ => "i",
        };
        scalar(wanted.unwrap_or(default), word)
    }

    /// `@as[...]` without a space: the signature ends at the bracket.
    fn array_signature(&mut self) -> &'a str {
        let end = self.rest.find('[').unwrap_or(self.rest.len());
        let (signature, rest) = self.rest.split_at(end);
        self.rest = rest;
        signature
    }

    fn array(&mut self, wanted: Option<&str>, depth: usize) -> std::result::Result<Value, String> {
        if depth == MAX_DEPTH {
            return Err("too many arrays in each other".to_owned());
        }
        let mut element = match wanted.map(|signature| signature.strip_prefix('a').ok_or(signature)) {
            None => None,
            Some(Ok(element)) => Some(element.to_owned()),
            Some(Err(other)) => return Err(format!("an array where type {other} is wanted")),
        };
        let mut values = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err("an array without its end".to_owned());
            }
            let value = self.value(element.as_deref(), depth + 1)?;
            element.get_or_insert_with(|| value.signature());
            values.push(value);
        }
        let element = element.ok_or("an empty array needs its type, such as @as []")?;
        Ok(Value::Array(element, values))
    }

    fn quoted(&mut self, quote: char) -> std::result::Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c @ ('\\' | '\'' | '"')) => text.push(c),
                    _ => return Err("an escape that is none".to_owned()),
                },
                // A D-Bus string ends at a NUL.
                '\0' => return Err("a NUL in a text".to_owned()),
                _ if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(text);
                }
                _ => text.push(c),
            }
        }
        Err("a text without its end".to_owned())
    }
}

/// A number or a truth value of the type `kind`.
fn scalar(kind: &str, word: &str) -> std::result::Result<Value, String> {
    let wrong = || format!("{word:?} is no value of type {kind}");
    if kind == "b" {
        return word.parse().map(Value::Bool).map_err(|_| wrong());
    }
    if kind == "d" {
        return word.parse().map(|value: f64| Value::Double(value.to_bits())).map_err(|_| wrong());
    }
    let number = match word.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => word.parse(),
    };
    let number: i128 = number.map_err(|_| wrong())?;
    let value = match kind {
        "y" => number.try_into().map(Value::Byte),
        "n" => number.try_into().map(Value::I16),
        "q" => number.try_into().map(Value::U16),
        "i" => number.try_into().map(Value::I32),
        "u" => number.try_into().map(Value::U32),
        "x" => number.try_into().map(Value::I64),
        "t" => number.try_into().map(Value::U64),
        _ => return Err(wrong()),
    };
    value.map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, text: &str) -> std::result::Result<(String, Value), String> {
        let annotations = HashMap::from([(format!("{PREFIX}{name}"), text.to_owned())]);
        match properties(&annotations) {
            Ok(mut found) => found.pop().map(|one| (one.name, one.value)).ok_or_else(String::new),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The forms that runc's documentation and tests have.
    #[test]
    fn values_have_the_type_that_they_show() {
        let strings = |texts: &[&str]| {
            Value::Array("s".to_owned(), texts.iter().map(|text| Value::text(*text)).collect())
        };
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            (r#""it's \"so\"""#, Value::text("it's \"so\"")),
            ("123", Value::I32(123)),
            ("uint64 123456789", Value::U64(123_456_789)),
            ("@t 5", Value::U64(5)),
            ("int64 -1", Value::I64(-1)),
            ("byte 0xff", Value::Byte(255)),
            ("1.5", Value::Double(1.5_f64.to_bits())),
            ("['a.service', 'b.service']", strings(&["a.service", "b.service"])),
            ("@as []", strings(&[])),
            ("@as['x']", strings(&["x"])),
            ("[uint32 1, 2]", Value::Array("u".to_owned(), vec![Value::U32(1), Value::U32(2)])),
        ] {
            assert_eq!(one("Name", text), Ok(("Name".to_owned(), value)), "{text}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        let usec = |n| Ok(("TimeoutStopUSec".to_owned(), Value::U64(n)));
        assert_eq!(one("TimeoutStopSec", "2"), usec(2_000_000));
        assert_eq!(one("TimeoutStopSec", "uint64 3"), usec(3_000_000));
        assert_eq!(one("TimeoutStopSec", "0.25"), usec(250_000));
        assert_eq!(one("TimeoutStopUSec", "uint64 7"), usec(7), "is no Sec: a capital stands before it");
        assert!(one("TimeoutStopSec", "-1").is_err());
        assert!(one("TimeoutStopSec", "'2'").is_err());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_its_pointer() {
        for (name, text) in [
            ("A1b", "1"),
            ("ab", "1"),
            ("", "1"),
            ("Ab_c", "1"),
            ("Abc", ""),
            ("Abc", "'x"),
            ("Abc", "[1"),
            ("Abc", "[]"),
            ("Abc", "[1 2]"),
            ("Abc", "1 2"),
            ("Abc", "[1, 'x']"),
            ("Abc", "uint32 -1"),
            ("Abc", "byte 256"),
            ("Abc", "maybe"),
            ("Abc", "@u 'x'"),
            ("Abc", "'\\x'"),
            ("Abc", "[[[[[1]]]]]"),
            ("Abc", "@(ss) 1"),
            ("Abc", "uint64"),
        ] {
            let error = one(name, text).unwrap_err();
            assert!(error.starts_with(&format!("/annotations/{PREFIX}{name}: ")), "{name} {text}: {error}");
        }
    }

    #[test]
    fn other_annotations_are_no_properties() {
        assert_eq!(properties(&HashMap::from([("org.systemd".to_owned(), "1".to_owned())])).unwrap(), []);
    }
}
