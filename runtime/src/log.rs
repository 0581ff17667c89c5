//! The log file and standard error: text or JSON lines, one per event.
