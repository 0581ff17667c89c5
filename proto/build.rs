//! Generates the message types at build time, without protoc and without run-time reflection.

use protobuf_codegen::Customize;

/// One Rust module each, in the order of their imports.
const FILES: [&str; 10] = [
    "types.proto",
    "ttrpc.proto",
    "task.proto",
    "events.proto",
    "options.proto",
    "bootstrap.proto",
    "sandbox.proto",
    "pod.proto",
    "metrics_v1.proto",
    "metrics_v2.proto",
];

fn main() {
    println!("cargo::rerun-if-changed=containerd");
    let customize = Customize::default().lite_runtime(true).gen_mod_rs(true).tokio_bytes(false);
    let generated = protobuf_codegen::Codegen::new()
        .pure()
        .include("containerd")
        .inputs(FILES.map(|file| format!("containerd/{file}")))
        .customize(customize)
        .cargo_out_dir("containerd")
        .run();
    if let Err(error) = generated {
        println!("cargo::error=generate the containerd messages: {error:#}");
    }
}
