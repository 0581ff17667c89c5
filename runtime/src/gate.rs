//! The start gate: the FIFO on which a created container waits for `start`.
