//! D-Bus values and their place in a message (D-Bus specification, "Type System" and "Marshaling (Wire Format)").

/// A value of a D-Bus type, as far as unit properties have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `y`
    Byte(u8),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`, by its bits, so that values can be compared.
    Double(u64),
    /// `s`
    Text(String),
    /// `a` of one type, whose signature stands first: an empty array has one too.
    Array(String, Vec<Value>),
    /// `(...)`
    Struct(Vec<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// An array of bytes.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".to_owned(), bytes.iter().copied().map(Self::Byte).collect())
    }

    /// The signature of its type.
    pub fn signature(&self) -> String {
        let one = match self {
            Self::Bool(_) => "b",
            Self::Byte(_) => "y",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Double(_) => "d",
            Self::Text(_) => "s",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => {
                return format!("({})", fields.iter().map(Self::signature).collect::<String>());
            }
        };
        one.to_owned()
    }

    /// Appends it; `out` begins where a message, or its body, begins, for values are aligned from there.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => fixed(out, u32::from(*value).to_ne_bytes()),
            Self::Byte(value) => out.push(*value),
            Self::I16(value) => fixed(out, value.to_ne_bytes()),
            Self::U16(value) => fixed(out, value.to_ne_bytes()),
            Self::I32(value) => fixed(out, value.to_ne_bytes()),
            Self::U32(value) => fixed(out, value.to_ne_bytes()),
            Self::I64(value) => fixed(out, value.to_ne_bytes()),
            Self::U64(value) | Self::Double(value) => fixed(out, value.to_ne_bytes()),
            Self::Text(text) => put_text(out, text),
            Self::Array(element, values) => {
                fixed(out, [0; 4]);
                let length_at = out.len() - 4;
                // Counted from the first element, after the padding that its type asks for.
                pad(out, if element.starts_with(['x', 't', 'd', '(', '{']) { 8 } else { 1 });
                let start = out.len();
                values.iter().for_each(|value| value.put(out));
                let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
                if let Some(place) = out.get_mut(length_at..length_at + 4) {
                    place.copy_from_slice(&length.to_ne_bytes());
                }
            }
            Self::Struct(fields) => {
                pad(out, 8);
                fields.iter().for_each(|field| field.put(out));
            }
            Self::Variant(value) => {
                put_signature(out, &value.signature());
                value.put(out);
            }
        }
    }
}

/// A number is aligned to its own size.
fn fixed<const SIZE: usize>(out: &mut Vec<u8>, bytes: [u8; SIZE]) {
    pad(out, SIZE);
    out.extend_from_slice(&bytes);
}

/// A string: its length, its bytes, a NUL that the length does not count.
fn put_text(out: &mut Vec<u8>, text: &str) {
    fixed(out, u32::try_from(text.len()).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// A signature: the same with a length of one byte.
pub fn put_signature(out: &mut Vec<u8>, signature: &str) {
    out.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(signature.as_bytes());
    out.push(0);
}

/// Fills up with zeros to a multiple of `alignment`.
pub fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

/// Reads values where they stand; every answer is `None` at or beyond the end.
#[derive(Debug)]
pub struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Of a message or a body.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// How far it has read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes on at the next multiple of `alignment`.
    pub fn align(&mut self, alignment: usize) {
        self.at = self.at.next_multiple_of(alignment);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let bytes = self.data.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    /// `y`
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// `u`
    pub fn number(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// `s` or `o`
    pub fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        self.terminated(length)
    }

    /// `g`
    pub fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> Option<String> {
        let bytes = self.take(length)?;
        self.take(1)?;
        String::from_utf8(bytes.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        values.iter().for_each(|value| value.put(&mut out));
        out
    }

    /// The layouts of the D-Bus specification: alignment, lengths without padding, terminators.
    #[test]
    fn values_are_laid_out_as_specified() {
        assert_eq!(put(&[Value::Byte(7), Value::U32(1)]), [&[7, 0, 0, 0][..], &1_u32.to_ne_bytes()].concat());
        assert_eq!(put(&[Value::text("foo")]), [&3_u32.to_ne_bytes()[..], b"foo\0"].concat());
        let array = Value::Array("t".to_owned(), vec![Value::U64(5)]);
        let expected = [&8_u32.to_ne_bytes()[..], &[0; 4], &5_u64.to_ne_bytes()].concat();
        assert_eq!(put(&[array]), expected, "the length counts no padding");
        let empty = Value::Array("(ss)".to_owned(), Vec::new());
        assert_eq!(
            put(std::slice::from_ref(&empty)),
            [0; 8],
            "an empty array is padded for its elements too"
        );
        assert_eq!(empty.signature(), "a(ss)");
        let variant = Value::Variant(Box::new(Value::Bool(true)));
        assert_eq!(put(&[variant]), [&[1, b'b', 0, 0][..], &1_u32.to_ne_bytes()].concat());
        let property = Value::Struct(vec![
            Value::text("PIDs"),
            Value::Variant(Box::new(Value::Array("u".to_owned(), vec![Value::U32(9)]))),
        ]);
        assert_eq!(property.signature(), "(sv)");
    }

    #[test]
    fn what_is_written_is_read() {
        let data = put(&[Value::Byte(3), Value::text("unit.scope"), Value::U32(17)]);
        let mut reader = Reader::new(&data);
        assert_eq!(reader.byte(), Some(3));
        assert_eq!(reader.text().as_deref(), Some("unit.scope"));
        assert_eq!(reader.number(), Some(17));
        assert_eq!(reader.number(), None);
        // A length beyond the end, and one that overflows.
        assert_eq!(Reader::new(&9_u32.to_ne_bytes()).text(), None);
        assert_eq!(Reader::new(&u32::MAX.to_ne_bytes()).text(), None);
    }
}
