//! AppArmor and SELinux labels of the process that will be executed.
//!
//! A label that was asked for and cannot be set is an error: a container without its confinement never starts
//! (row B1). The writes go to a private procfs, by the attribute's own name for each module, so that a decoy over
//! `/proc` cannot take them (CVE-2019-16884, CVE-2025-52881).

use nix::unistd::Pid;

use crate::error::{Context as _, Error, Result};
use crate::sys::procfs::Procfs;

/// Where `aa_change_onexec` writes; kernels before 5.8 have the shared file only.
const APPARMOR: [&str; 2] = ["attr/apparmor/exec", "attr/exec"];

/// Sets the AppArmor profile and the SELinux label that execve will put on this process. Nothing to do for neither.
///
/// # Errors
/// A label that this kernel cannot apply, with the reason.
pub fn set_exec_labels(apparmor: Option<&str>, selinux: Option<&str>) -> Result<()> {
    let apparmor = apparmor.filter(|profile| !profile.is_empty());
    let selinux = selinux.filter(|label| !label.is_empty());
    if apparmor.is_none() && selinux.is_none() {
        return Ok(());
    }
    let procfs = Procfs::processes()?;
    if let Some(profile) = apparmor {
        set_apparmor(&procfs, profile).context(|| format!("apply AppArmor profile {profile:?}"))?;
    }
    if let Some(label) = selinux {
        let path = format!("{}/attr/exec", Pid::this());
        procfs
            .write(path, label.as_bytes())
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
    let [own, shared] = APPARMOR.map(|name| format!("{}/{name}", Pid::this()));
    match procfs.write(own, value.as_bytes()) {
        Err(nix::errno::Errno::ENOENT) => procfs.write(shared, value.as_bytes()).map_err(explain),
        other => other.map_err(explain),
    }
}

/// The kernel answers EINVAL for a label when no module is there to understand it.
fn explain(errno: nix::errno::Errno) -> Error {
    match errno {
        nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT => {
            Error::from_errno("the security module is not active on this host or does not know the label", errno)
        }
        errno => Error::from_errno("write the attribute", errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md B1: a profile without AppArmor is an error, never a container without confinement.
    #[test]
    fn b1_a_label_that_cannot_be_applied_is_an_error() {
        assert!(set_exec_labels(None, Some("")).is_ok());
        let error = set_exec_labels(Some("no-such-profile"), None).unwrap_err().to_string();
        assert!(error.starts_with("apply AppArmor profile \"no-such-profile\": "), "{error}");
        assert!(set_exec_labels(Some("a\nchangeprofile b"), None).unwrap_err().to_string().contains("one line"));
    }
}
