//! Decide everything about a container before any side effect (pure).
