//! The only protocol between the runtime and the process that becomes the container.
