//! A driver for terminals: the master of a pty, what has been read from it, and what is typed into it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;

use crate::failure::Outcome;
use crate::harness::{Call, Running};
use crate::{ensure, sys};

/// How long an expected text may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// The side of a terminal where a person would sit.
pub struct Terminal {
    master: File,
    seen: String,
    /// Everything before this was matched already.
    position: usize,
}

impl Terminal {
    /// Drives a master.
    pub fn of(master: OwnedFd) -> Self {
        Self { master: master.into(), seen: String::new(), position: 0 }
    }

    /// Starts a call whose three standard descriptors and controlling terminal are a new pty of this size.
    pub fn run(call: Call, columns: u16, rows: u16) -> Outcome<(Self, Running)> {
        let pair = openpty(None, None)?;
        sys::set_terminal_size(pair.master.as_fd(), columns, rows)?;
        let slave = pair.slave.as_raw_fd();
        let call = call.own_stdio().setup(|setup| {
            setup.fds = vec![(slave, 0), (slave, 1), (slave, 2)];
            setup.terminal = true;
        });
        Ok((Self::of(pair.master), call.spawn()?))
    }

    /// The master.
    pub fn master(&self) -> &File {
        &self.master
    }

    /// Types.
    pub fn send(&mut self, text: &str) -> Outcome {
        self.master.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Changes the size, as a window manager does.
    pub fn resize(&self, columns: u16, rows: u16) -> Outcome {
        sys::set_terminal_size(self.master.as_fd(), columns, rows)?;
        Ok(())
    }

    /// Reads until a text appears after what was matched before; what stood before it.
    pub fn expect(&mut self, text: &str) -> Outcome<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.seen[self.position..].find(text) {
                let before = self.seen[self.position..self.position + found].to_owned();
                self.position += found + text.len();
                return Ok(before);
            }
            let rest = self.seen[self.position..].to_owned();
            ensure!(self.read_some(end)?, "the terminal shows {rest:?} and not {text:?}");
        }
    }

    /// Reads until nobody has the other side open any more; everything that was seen.
    pub fn read_to_end(&mut self) -> Outcome<String> {
        let end = Instant::now() + PATIENCE;
        while self.read_some(end)? {}
        Ok(self.seen.clone())
    }

    /// Reads what there is; false at the end of the terminal or of patience.
    fn read_some(&mut self, end: Instant) -> Outcome<bool> {
        let flags = OFlag::from_bits_truncate(fcntl(&self.master, FcntlArg::F_GETFL)?);
        fcntl(&self.master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let mut buffer = [0u8; 4096];
        loop {
            match self.master.read(&mut buffer) {
                // EIO: the last descriptor of the other side is closed.
                Ok(0) => return Ok(false),
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(false),
                Ok(length) => {
                    self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if Instant::now() > end {
                        return Ok(false);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
