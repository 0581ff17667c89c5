//! The entry point and the allocator, in place of a C library's.

#![allow(unsafe_code, reason = "the system call module")]

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{CStr, c_char};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use skeg_init::{become_process, sys};

// The kernel puts argc, argv and envp on the stack and leaves no return address (System V ABI, process initialization).
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "and sp, x0, #-16",
    "bl {start}",
    "brk #1",
    start = sym start,
);

/// `stack` is where the kernel put argc, and the pointers of argv behind it.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel put argc here.
    let count = unsafe { *stack };
    let mut arguments = [None; become_process::ARGUMENTS];
    for (index, argument) in arguments.iter_mut().enumerate().take(count) {
        // SAFETY: argv has `count` pointers to strings that end in NUL, and stays where it is.
        *argument = Some(unsafe { CStr::from_ptr(*stack.add(1 + index).cast::<*const c_char>()) });
    }
    become_process::main(&arguments)
}

/// Memory is only ever handed out: the program is short-lived, and execve gives all of it back.
struct Arena;

/// As much as an ordinary container needs, in pages that cost nothing until they are touched.
const ARENA: usize = 1 << 20;

#[repr(align(16))]
struct Memory(core::cell::UnsafeCell<[u8; ARENA]>);

// SAFETY: the program has one thread, and no byte is handed out twice.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(core::cell::UnsafeCell::new([0; ARENA]));
static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: each byte of the arena, or of a mapping of its own, is handed out once, aligned as asked for.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = MEMORY.0.get().cast::<u8>();
        let used = USED.load(Ordering::Relaxed);
        let start = used.next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if end <= ARENA && layout.align() <= 16 => {
                USED.store(end, Ordering::Relaxed);
                // SAFETY: `start` is within the arena.
                unsafe { base.add(start) }
            }
            _ => sys::map_memory(layout.size()).unwrap_or(ptr::null_mut()),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Arena = Arena;
