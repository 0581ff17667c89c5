//! Message types of the containerd APIs that the shim speaks.
