//! The values of flags and arguments that are more than a path or a number: users and signals.

use std::ffi::OsStr;
use std::str::FromStr as _;

use super::User;
use crate::error::{Error, Result};

impl User {
    /// Reads `<uid>[:<gid>]`.
    ///
    /// # Errors
    /// Anything but decimal numbers from 0 to 4294967294 without sign, blank or leading zero.
    pub fn parse(text: &str) -> Result<Self> {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        let number = |text| parse_id_number("user", text);
        Ok(Self { uid: number(uid)?, gid: gid.map(number).transpose()? })
    }
}

/// A user or group id; never 4294967295, which setuid(2) and chown(2) take for "leave as it is".
pub(super) fn parse_id_number(flag: &str, text: &str) -> Result<u32> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|c| c.is_ascii_digit()));
    let number = if canonical { text.parse::<u32>().ok().filter(|&id| id != u32::MAX) } else { None };
    number.ok_or_else(|| {
        Error::new(format!("invalid value {text:?} for flag -{flag}: must be a number from 0 to 4294967294"))
    })
}

/// The real-time signals as glibc and Go number them: the kernel's begin at 32, and C libraries keep some to themselves.
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

/// A signal by number (0 to 64) or name, `SIG` optional, in any case.
pub(super) fn parse_signal(text: &OsStr) -> Result<i32> {
    let unknown = || Error::new(format!("unknown signal {text:?}"));
    let name = text.to_str().ok_or_else(unknown)?.to_ascii_uppercase();
    let (min, max) = (*REALTIME.start(), *REALTIME.end());
    if let Ok(number) = name.parse::<i32>() {
        return if (0..=max).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text[1..].parse::<i32>().ok() };
    let realtime = if let Some(rest) =
        name.strip_prefix("RTMIN").filter(|rest| rest.is_empty() || rest.starts_with('+'))
    {
        offset(rest).map(|n| min.saturating_add(n))
    } else if let Some(rest) =
        name.strip_prefix("RTMAX").filter(|rest| rest.is_empty() || rest.starts_with('-'))
    {
        offset(rest).map(|n| max.saturating_sub(n))
    } else {
        // The second names of signal(7).
        let name = match name {
            "CLD" => "CHLD",
            "IOT" => "ABRT",
            "POLL" => "IO",
            other => other,
        };
        return nix::sys::signal::Signal::from_str(&format!("SIG{name}"))
            .map(|signal| signal as i32)
            .map_err(|_| unknown());
    };
    realtime.filter(|n| REALTIME.contains(n)).ok_or_else(unknown)
}
