//! Namespaces to make and to join.
