//! Sentences of features.md and features-linux.md.

use super::By::{Cases, Unit};
use super::{Row, row};

/// features.md.
#[rustfmt::skip]
pub const FEATURES: &[Row] = &[
    row("features", "The null value MUST NOT be confused with", Cases(&["features_hold"])),
    row("featuresSpecificationVersion", "ociVersionMin (string, REQUIRED) The minimum recognized version of", Cases(&["features_hold"])),
    row("featuresSpecificationVersion", "The runtime MUST accept this value as the", Cases(&["features_hold"])),
    row("featuresSpecificationVersion", "ociVersionMax (string, REQUIRED) The maximum recognized version of", Cases(&["features_hold"])),
    row("featuresSpecificationVersion", "The runtime MUST accept this value as the", Cases(&["features_hold"])),
    row("featuresSpecificationVersion", "The value MUST NOT be less than the", Cases(&["features_hold"])),
    row("featuresSpecificationVersion", "The Features structure MUST NOT contain properties that", Cases(&["features_hold"])),
    row("featuresHooks", "The runtime MUST support the elements in this", Cases(&["features_hold"])),
    row("featuresMountOptions", "The runtime MUST recognize the elements in this", Cases(&["features_hold"])),
    row("featuresAnnotations", "Annotations MUST be a key-value map that follows", Cases(&["features_hold"])),
];

/// features-linux.md.
#[rustfmt::skip]
pub const FEATURES_LINUX: &[Row] = &[
    row("linuxFeaturesNamespaces", "The runtime MUST recognize the elements in this", Cases(&["features_hold"])),
    row("linuxFeaturesCapabilities", "The runtime MUST recognize the elements in this", Cases(&["features_hold"])),
    row("linuxFeaturesSeccomp", "The runtime MUST recognize the elements in this", Cases(&["features_hold"])),
    row("linuxFeaturesSeccomp", "The runtime MUST recognize the elements in this", Cases(&["features_hold"])),
    row("linuxFeaturesSeccomp", "The runtime MUST recognize the elements in this", Cases(&["features_hold"])),
    row("linuxFeaturesSeccomp", "The runtime MUST recognize the elements in this", Cases(&["features_hold"])),
    row("linuxFeaturesSeccomp", "The runtime MUST recognize and support the elements", Cases(&["features_hold"])),
    row("linuxFeaturesMemoryPolicy", "memoryPolicy.modes: The runtime MUST recognize the elements", Unit(&[], &["features::tests::names_are_accepted_in_a_configuration"])),
    row("linuxFeaturesMemoryPolicy", "memoryPolicy.flags: The runtime MUST recognize the elements", Unit(&[], &["features::tests::names_are_accepted_in_a_configuration"])),
    row("linuxFeaturesMountExtensions", "In such cases, runtimes MUST still set this", Cases(&["features_hold", "idmapped_mount"])),
];
