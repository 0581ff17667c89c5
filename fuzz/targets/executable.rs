//! A file of the image that execve refuses: why it did is told from its first bytes (security.md C9), whatever they are.
#![no_main]
#![allow(clippy::disallowed_methods, reason = "a scratch file of the fuzzer's own")]

use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use libfuzzer_sys::fuzz_target;
use skeg_init::diagnose::reason;
use skeg_init::error::Errno;

thread_local! {
    /// One file for all inputs, without a name once it is open.
    static FILE: RefCell<(File, CString)> = RefCell::new(file().expect("a file for the inputs"));
}

fn file() -> std::io::Result<(File, CString)> {
    let path = std::env::temp_dir().join(format!("skeg-fuzz-executable-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    std::fs::remove_file(&path)?;
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((file, path))
}

fuzz_target!(|bytes: &[u8]| {
    FILE.with_borrow(|(file, path)| {
        file.set_len(0).and_then(|()| file.write_all_at(bytes, 0)).expect("write the input");
        for errno in [libc::ENOEXEC, libc::ENOENT, libc::EACCES] {
            if let Some(said) = reason(path, Errno(errno)) {
                assert!(!said.is_empty() && said.len() < 3 * 4096 + 1024, "{} bytes", said.len());
            }
        }
    });
});
