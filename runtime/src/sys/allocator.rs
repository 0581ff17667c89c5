//! The allocator of the program: dlmalloc without a lock. A command lives for milliseconds and has one thread (ARCHITECTURE.md), and by
//! perf(1) the lock of `GlobalDlmalloc` took longer than all else it did. musl's own allocator is made for programs that live long, and
//! took five times as long.

#![allow(unsafe_code, reason = "the system call module")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;

use dlmalloc::Dlmalloc;

/// For a program of one thread.
pub struct Allocator(UnsafeCell<Dlmalloc>);

impl Allocator {
    /// With nothing taken from the kernel yet.
    pub const fn new() -> Self {
        Self(UnsafeCell::new(Dlmalloc::new()))
    }
}

// SAFETY: the program starts no thread; a process that it clones has a copy of its own.
unsafe impl Sync for Allocator {}

// SAFETY: each call is one of dlmalloc's own, which has this contract; none is interrupted by another, since there is no thread and no
// signal handler.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; the caller has the memory from here, with this layout.
        unsafe { (*self.0.get()).free(memory, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; the caller has the memory from here, with this layout.
        unsafe { (*self.0.get()).realloc(memory, layout.size(), layout.align(), size) }
    }
}
