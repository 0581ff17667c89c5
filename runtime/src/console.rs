//! Pseudo terminals: the console socket and the foreground terminal.
