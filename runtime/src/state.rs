//! The state directory of a container and the status that is derived from it.
