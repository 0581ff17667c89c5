//! System call names and numbers by architecture.
