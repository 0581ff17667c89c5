//! argv to Command: runc's command line, pure.
