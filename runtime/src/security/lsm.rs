//! AppArmor and SELinux labels of the process that will be executed: which are asked for. The sealed program sets them
//! (`init/src/security.rs`).

use std::ffi::CString;

use oci_spec::runtime::Process;

use crate::error::{Error, Result};

/// Whether the process asks for a label, and so needs a procfs to write it to.
pub fn wants_labels(process: &Process) -> bool {
    apparmor_profile(process).is_some() || selinux_label(process).is_some()
}

/// `/process/selinuxLabel`, where it says something.
pub fn selinux_label(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|label| !label.is_empty())
}

fn apparmor_profile(process: &Process) -> Option<&str> {
    process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty())
}

/// What is written to set the AppArmor profile (aa_change_onexec(2)).
///
/// # Errors
/// A profile that is more than a line.
pub fn apparmor_value(process: &Process) -> Result<Option<CString>> {
    let Some(profile) = apparmor_profile(process) else { return Ok(None) };
    let one_line = || Error::new("/process/apparmorProfile: must be one line");
    if profile.contains('\n') {
        return Err(one_line());
    }
    CString::new(format!("exec {profile}")).map(Some).map_err(|_| one_line())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(profile: &str) -> Process {
        let mut process = Process::default();
        process.set_apparmor_profile(Some(profile.to_owned()));
        process
    }

    /// security.md B1: a profile cannot bring a second command with it.
    #[test]
    fn b1_a_profile_is_one_line() {
        assert!(apparmor_value(&process("a\nchangeprofile b")).is_err());
        assert!(apparmor_value(&process("a\0b")).is_err());
        assert_eq!(apparmor_value(&process("")).unwrap(), None);
        assert_eq!(
            apparmor_value(&process("docker-default")).unwrap().as_deref(),
            Some(c"exec docker-default")
        );
    }
}
