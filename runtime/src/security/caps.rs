//! Capability sets (config.md, Linux Process, capabilities; capabilities(7)).

use std::str::FromStr as _;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use skeg_init::instructions::Capabilities as CapabilitySets;

/// The sets of `/process/capabilities`. All empty where the configuration names none (row E1).
pub fn sets(capabilities: Option<&LinuxCapabilities>) -> CapabilitySets {
    let Some(capabilities) = capabilities else { return CapabilitySets::default() };
    let bits = |set: &Option<Capabilities>| {
        set.iter().flatten().filter_map(|&capability| number(capability)).fold(0, |all, n| all | 1_u64 << n)
    };
    CapabilitySets {
        bounding: bits(capabilities.bounding()),
        effective: bits(capabilities.effective()),
        inheritable: bits(capabilities.inheritable()),
        permitted: bits(capabilities.permitted()),
        ambient: bits(capabilities.ambient()),
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

    /// security.md E1: no configuration, no capability.
    #[test]
    fn e1_nothing_is_given_that_is_not_asked_for() {
        assert_eq!(sets(None), CapabilitySets::default());
    }
}
