//! URIs of standard streams, as containerd writes them: a path alone is a FIFO.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::logger::Logger;
use crate::path;

/// What a stream's URI means.
#[derive(Debug, PartialEq, Eq)]
pub enum Scheme {
    /// No stream.
    None,
    /// A FIFO.
    Fifo(PathBuf),
    /// A log file.
    File(PathBuf),
    /// A logging binary.
    Binary(Logger),
}

/// What `uri` means for the stream `what`: an allow-list of schemes, each with an absolute path (security.md I9).
///
/// # Errors
/// `InvalidArgument` for anything else.
pub fn scheme(what: &str, uri: &str) -> Result<Scheme> {
    if uri.is_empty() {
        return Ok(Scheme::None);
    }
    let Some((name, rest)) = uri.split_once("://") else {
        return Ok(Scheme::Fifo(path::check_absolute(what, uri)?));
    };
    let (file, query) = rest.split_once('?').unwrap_or((rest, ""));
    let file = path::check_absolute(what, &percent_decode(what, file)?)?;
    match name {
        "fifo" => Ok(Scheme::Fifo(file)),
        "file" => Ok(Scheme::File(file)),
        "binary" | "binary-v2" => {
            let mut arguments = Vec::new();
            for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                arguments.push(percent_decode(what, &key.replace('+', " "))?);
                if !value.is_empty() {
                    arguments.push(percent_decode(what, &value.replace('+', " "))?);
                }
            }
            Ok(Scheme::Binary(Logger { program: file, arguments, says_ready: name == "binary-v2" }))
        }
        _ => {
            Err(Error::invalid(format!("{what} {uri:?}: the scheme must be fifo, file, binary or binary-v2")))
        }
    }
}

/// The FIFO that `uri` names, if any.
///
/// # Errors
/// `InvalidArgument` for anything else.
pub fn fifo_path(what: &str, uri: &str) -> Result<Option<PathBuf>> {
    match scheme(what, uri)? {
        Scheme::None => Ok(None),
        Scheme::Fifo(fifo) => Ok(Some(fifo)),
        Scheme::File(_) | Scheme::Binary(_) => Err(Error::invalid(format!("{what} {uri:?}: must be a FIFO"))),
    }
}

fn percent_decode(what: &str, text: &str) -> Result<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit =
            |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => decoded.push(high * 16 + low),
            _ => return Err(Error::invalid(format!("{what} {text:?}: a bad % sequence"))),
        }
    }
    String::from_utf8(decoded).map_err(|_| Error::invalid(format!("{what} {text:?}: not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md I9: schemes are an allow-list, paths are absolute.
    #[test]
    fn i9_stream_uris_are_an_allow_list() {
        assert_eq!(scheme("stdout", "").unwrap(), Scheme::None);
        assert_eq!(scheme("stdout", "/run/f").unwrap(), Scheme::Fifo("/run/f".into()));
        assert_eq!(scheme("stdout", "file:///var/log/a%20b").unwrap(), Scheme::File("/var/log/a b".into()));
        assert_eq!(
            scheme("stdout", "binary:///bin/logger?tag=web&x=a%2Fb&flag").unwrap(),
            Scheme::Binary(Logger {
                program: "/bin/logger".into(),
                arguments: ["tag", "web", "x", "a/b", "flag"].map(str::to_owned).to_vec(),
                says_ready: false,
            })
        );
        let strict = Logger { program: "/bin/logger".into(), arguments: Vec::new(), says_ready: true };
        assert_eq!(scheme("stdout", "binary-v2:///bin/logger").unwrap(), Scheme::Binary(strict));
        for uri in [
            "binary-v3:///bin/logger",
            "relative/fifo",
            "http://example/x",
            "file://relative/x",
            "file:///var/../etc/passwd",
            "file:///a/%2e%2e/b",
            "binary://logger",
            "binary:///bin/x?a=%zz",
            "npipe:////./pipe/x",
            "../fifo",
        ] {
            let error = scheme("stdout", uri).unwrap_err();
            assert_eq!(error.code(), crate::error::Code::InvalidArgument, "{uri}");
        }
        assert!(fifo_path("stdin", "file:///x").is_err());
    }
}
