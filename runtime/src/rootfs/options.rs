//! Mount options: names to flags, attributes and file system parameters (pure).
