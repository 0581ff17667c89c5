//! Kernel parameters of the container's namespaces (config-linux.md, sysctl).
//!
//! Which parameters are allowed is decided when the configuration is validated. Here each is written to a private
//! procfs by the process that is in the namespaces: the kernel shows a task the parameters of its own.

use std::collections::HashMap;

use crate::bundle::sysctl::SysctlKey;
use crate::error::{Context as _, Error, Result};
use crate::namespaces::{OpenNamespace, name};
use crate::sys::procfs::Procfs;

/// One parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name as configured.
    name: String,
    /// Its file below `sys`.
    path: String,
    /// What is written: as it is, in one write.
    value: String,
    /// The `CLONE_NEW*` bit of the namespace type that it belongs to.
    namespace: u64,
}

/// The parameters in the order of their names.
///
/// # Errors
/// A name that is no path below `sys` (row B7).
pub fn plan(parameters: &HashMap<String, String>) -> Result<Vec<Sysctl>> {
    let mut sysctls = parameters
        .iter()
        .map(|(name, value)| {
            let key = SysctlKey::parse(name).context(|| format!("/linux/sysctl/{name}"))?;
            Ok(Sysctl { name: name.clone(), path: key.path, value: value.clone(), namespace: key.namespace })
        })
        .collect::<Result<Vec<_>>>()?;
    sysctls.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sysctls)
}

/// Refuses parameters of a namespace that is joined by path and is the runtime's own: they would be the host's (row B6).
///
/// # Errors
/// Which parameter that is.
pub fn check_joined(sysctls: &[Sysctl], joined: &[OpenNamespace]) -> Result<()> {
    for namespace in joined {
        let Some(sysctl) = sysctls.iter().find(|sysctl| sysctl.namespace == namespace.kind) else { continue };
        if namespace.is_own(&Procfs::mounted()?)? {
            let kind = name(namespace.kind);
            return Err(Error::new(format!(
                "/linux/sysctl/{}: {:?}: the {kind} namespace that the container joins is the host's",
                sysctl.name, sysctl.value
            )));
        }
    }
    Ok(())
}

/// Writes the parameters.
///
/// # Errors
/// Which one could not be written, and why.
pub fn apply(sysctls: &[Sysctl], procfs: &Procfs) -> Result<()> {
    for sysctl in sysctls {
        procfs
            .write(format!("sys/{}", sysctl.path), sysctl.value.as_bytes())
            .context(|| format!("/linux/sysctl: write {:?} to {}", sysctl.value, sysctl.name))?;
    }
    Ok(())
}
