//! Entering the root file system: pivot_root.
