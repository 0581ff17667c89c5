//! The child's half: an ordered checklist that ends in execve.
