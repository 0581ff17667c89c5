//! AppArmor and SELinux labels of the process that will be executed.
//!
//! A label that was asked for and cannot be set is an error: a container without its confinement never starts
//! (row B1). The writes go to a private procfs, by the attribute's own name for each module, so that a decoy over
//! `/proc` cannot take them (CVE-2019-16884, CVE-2025-52881).

use oci_spec::runtime::Process;

use crate::error::{Context as _, Error, Result};
use crate::sys::procfs::Procfs;

/// Where `aa_change_onexec` writes; the file `attr/exec` is shared, and another module's where both are active.
const APPARMOR: &str = "attr/apparmor/exec";

/// Whether the process asks for a label, and so needs a procfs to write it to.
pub fn wants_labels(process: &Process) -> bool {
    [process.apparmor_profile(), process.selinux_label()]
        .iter()
        .any(|label| label.as_deref().is_some_and(|l| !l.is_empty()))
}

/// Sets the AppArmor profile and the SELinux label that execve will put on this process. Nothing to do for neither.
/// `procfs` was opened in the runtime's own namespaces.
///
/// # Errors
/// A label that this kernel cannot apply, with the reason.
pub fn set_exec_labels(procfs: Option<&Procfs>, apparmor: Option<&str>, selinux: Option<&str>) -> Result<()> {
    let apparmor = apparmor.filter(|profile| !profile.is_empty());
    let selinux = selinux.filter(|label| !label.is_empty());
    if apparmor.is_none() && selinux.is_none() {
        return Ok(());
    }
    let procfs = procfs.ok_or_else(|| Error::new("set a label: no procfs has been opened"))?;
    if let Some(profile) = apparmor {
        set_apparmor(procfs, profile).context(|| format!("apply AppArmor profile {profile:?}"))?;
    }
    if let Some(label) = selinux {
        procfs
            .write_self("attr/exec", label.as_bytes())
            .map_err(explain)
            .context(|| format!("apply SELinux label {label:?}"))?;
    }
    Ok(())
}

fn set_apparmor(procfs: &Procfs, profile: &str) -> Result<()> {
    if profile.contains(['\n', '\0']) {
        return Err(Error::new("/process/apparmorProfile: must be one line"));
    }
    let value = format!("exec {profile}");
    procfs.write_self(APPARMOR, value.as_bytes()).map_err(explain)
}

/// The kernel answers EINVAL for a label when no module is there to understand it.
fn explain(errno: nix::errno::Errno) -> Error {
    match errno {
        nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT => Error::from_errno(
            "the security module is not active on this host or does not know the label",
            errno,
        ),
        errno => Error::from_errno("write the attribute", errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md B1: a profile without AppArmor is an error, never a container without confinement.
    #[test]
    fn b1_a_label_that_cannot_be_applied_is_an_error() {
        let procfs = Procfs::processes().unwrap();
        let set = |apparmor, selinux| set_exec_labels(Some(&procfs), apparmor, selinux);
        assert!(set(None, Some("")).is_ok());
        let error = set(Some("no-such-profile"), None).unwrap_err().to_string();
        assert!(error.starts_with("apply AppArmor profile \"no-such-profile\": "), "{error}");
        assert!(set(Some("a\nchangeprofile b"), None).unwrap_err().to_string().contains("one line"));
    }
}
