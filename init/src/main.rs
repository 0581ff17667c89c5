//! The start of the program, with nothing beneath it but the kernel.

#![no_std]
#![no_main]

use skeg_init::sys;

// Only the program has them: the library is linked into the runtime too, which has those of the C library.
#[path = "sys/memory.rs"]
mod memory;
#[path = "sys/start.rs"]
mod start;

/// A mistake of ours: the runtime sees the end of the channel and says that the process has died.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(101)
}
