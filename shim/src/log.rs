//! The shim's own log: lines into the FIFO `log` of its bundle, which containerd copies into its log. A line that
//! nobody reads is dropped; the shim never waits for it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

static LOG: OnceLock<OwnedFd> = OnceLock::new();

/// Sends the lines from now on to `fifo`, which does not block.
pub fn open(fifo: OwnedFd) {
    let _ = LOG.set(fifo);
}

/// One line at level error.
pub fn error(text: fmt::Arguments<'_>) {
    line("error", text);
}

/// One line at level warning.
pub fn warn(text: fmt::Arguments<'_>) {
    line("warning", text);
}

fn line(level: &str, text: fmt::Arguments<'_>) {
    let Some(fifo) = LOG.get() else { return };
    // `{:?}` quotes and escapes as logfmt asks for; one write keeps lines of several shims whole (PIPE_BUF).
    let line = format!("level={level} msg={:?} source=skeg-shim\n", text.to_string());
    let _ = nix::unistd::write(fifo, line.as_bytes());
}
