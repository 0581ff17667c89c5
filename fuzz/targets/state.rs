//! state.json: a record that anybody may have torn (security.md G3): a verdict without a panic, and what is accepted can be
//! told to hooks in every status.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skeg::state::{State, Status};

fuzz_target!(|text: &[u8]| {
    let Ok(state) = State::parse(text, "fuzz") else { return };
    assert!(state.id == "fuzz" && state.pid >= 0);
    for status in [Status::Creating, Status::Created, Status::Running, Status::Paused, Status::Stopped] {
        state.to_hooks(status).expect("the state for hooks");
    }
    let written = serde_json::to_vec(&state).expect("the record as text");
    State::parse(&written, "fuzz").expect("what was written by us is read by us");
});
