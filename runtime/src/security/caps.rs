//! Capability sets (config.md, Linux Process, capabilities; capabilities(7)).

use std::str::FromStr as _;

use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::error::{Context as _, Result};
use crate::sys::process;

/// The five sets, a bit for each capability number. All empty where the configuration names none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// What a file or an ambient set can still give.
    pub bounding: u64,
    /// What the kernel checks.
    pub effective: u64,
    /// What survives an execve of a file that has it inheritable too.
    pub inheritable: u64,
    /// What the effective set may be raised to.
    pub permitted: u64,
    /// What an unprivileged program keeps across execve.
    pub ambient: u64,
}

impl CapabilitySets {
    /// Reads `/process/capabilities`.
    pub fn new(capabilities: Option<&LinuxCapabilities>) -> Self {
        let Some(capabilities) = capabilities else { return Self::default() };
        let bits = |set: &Option<Capabilities>| {
            set.iter()
                .flatten()
                .filter_map(|&capability| number(capability))
                .fold(0, |all, n| all | 1_u64 << n)
        };
        Self {
            bounding: bits(capabilities.bounding()),
            effective: bits(capabilities.effective()),
            inheritable: bits(capabilities.inheritable()),
            permitted: bits(capabilities.permitted()),
            ambient: bits(capabilities.ambient()),
        }
    }

    /// Cuts the sets down to what this process can give, as config.md asks: capabilities that cannot be granted are no
    /// error (the result is fewer rights). The kernel wants effective within permitted and ambient within both
    /// permitted and inheritable.
    fn within(self, own_permitted: u64) -> Self {
        let permitted = self.permitted & own_permitted;
        let inheritable = self.inheritable & own_permitted;
        Self {
            bounding: self.bounding,
            effective: self.effective & permitted,
            inheritable,
            permitted,
            ambient: self.ambient & permitted & inheritable,
        }
    }

    /// Takes everything out of the bounding set that is not in ours. Needs CAP_SETPCAP, and so comes before the ids.
    ///
    /// # Errors
    /// What prctl(2) said.
    pub fn limit_bounding(self) -> Result<()> {
        for capability in 0..64 {
            let wanted = self.bounding >> capability & 1 == 1;
            match process::bounding_has(capability) {
                // The numbers end here.
                Err(Errno::EINVAL) => break,
                Ok(true) if !wanted => process::bounding_drop(capability)
                    .context(|| format!("drop capability {capability} from the bounding set"))?,
                other => drop(other.context(|| "read the bounding set")?),
            }
        }
        Ok(())
    }

    /// Sets the other four sets to exactly ours, the ambient one included: nothing of the caller's stays (row E2).
    ///
    /// # Errors
    /// What capset(2) or prctl(2) said.
    pub fn apply(self) -> Result<()> {
        let own = process::permitted_capabilities().context(|| "read the capabilities")?;
        let sets = self.within(own);
        process::ambient_clear().context(|| "clear the ambient capabilities")?;
        process::set_capabilities(sets.effective, sets.permitted, sets.inheritable)
            .context(|| "set the capabilities")?;
        for capability in (0..64).filter(|capability| sets.ambient >> capability & 1 == 1) {
            process::ambient_raise(capability).context(|| format!("make capability {capability} ambient"))?;
        }
        Ok(())
    }
}

/// The capability of this name (`CAP_CHOWN`), if there is one.
pub fn parse(name: &str) -> Option<Capability> {
    caps::Capability::from_str(name).ok()?;
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}

/// The kernel's number of a capability.
pub fn number(capability: Capability) -> Option<u8> {
    caps::Capability::from_str(&format!("CAP_{capability}")).ok().map(|known| known.index())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_of_the_specification_has_its_number() {
        assert_eq!(number(Capability::Chown), Some(0));
        assert_eq!(number(Capability::CheckpointRestore), Some(40));
        for name in caps::all() {
            let name = name.to_string();
            let capability: Capability = serde_json::from_str(&format!("{name:?}")).unwrap();
            assert_eq!(
                number(capability),
                Some(caps::Capability::from_str(&name).unwrap().index()),
                "{name}"
            );
        }
    }

    /// security.md E1: no configuration, no capability; an ambient capability is inheritable and permitted.
    #[test]
    fn e1_sets_are_those_of_the_configuration_and_never_more() {
        assert_eq!(CapabilitySets::new(None), CapabilitySets::default());
        let asked = CapabilitySets {
            bounding: 0b111,
            effective: 0b110,
            inheritable: 0b010,
            permitted: 0b110,
            ambient: 0b110,
        };
        let granted = asked.within(0b011);
        assert_eq!(granted.permitted, 0b010);
        assert_eq!(granted.effective, 0b010);
        assert_eq!(granted.ambient, 0b010);
        assert_eq!(asked.within(u64::MAX).ambient, 0b010);
    }
}
