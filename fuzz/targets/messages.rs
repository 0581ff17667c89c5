//! What crosses between the runtime and the container's process: bytes that a process of the container may have written if it can
//! trace ours (security.md C4). Read without a panic, and written again as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skeg::sync::{Message, decode, encode};
use skeg_init::instructions::Instructions;
use skeg_init::procfs;

fuzz_target!(|bytes: &[u8]| {
    if let Some(message) = decode(bytes) {
        let written = encode(&message);
        assert!(written.len() <= skeg::sync::MESSAGE_LIMIT);
        let again = decode(&written).expect("what was written by us is read by us");
        match (message, again) {
            // Its text loses what is no UTF-8, and what is beyond the longest message.
            (Message::Error(one), Message::Error(other)) => assert_eq!(one.errno(), other.errno()),
            (one, other) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        }
    }
    if let Some(instructions) = Instructions::decode(bytes) {
        let written = instructions.encode();
        assert_eq!(Instructions::decode(&written).as_ref(), Some(&instructions));
    }
    let _socket = procfs::decode(bytes);
});
