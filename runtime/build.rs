//! Builds the program that the runtime seals and executes in the container (`init/`), for the runtime to carry with it.
//!
//! A cargo of its own, because it is linked without a C library and cargo's artifact dependencies are not stable.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a build script runs on the developer's machine"
)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What of the outer build's settings must not reach the inner one.
const OUTER: [&str; 6] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
];

/// No start files, no C library, no place in memory that is chosen at run time (there is nobody to relocate it).
const FLAGS: &str = "-Crelocation-model=static -Ctarget-feature=+crt-static -Clink-arg=-nostartfiles \
    -Clink-arg=-nodefaultlibs -Clink-arg=-static -Clink-arg=-no-pie -Clink-arg=-Wl,--build-id=none \
    -Clink-arg=-Wl,-z,noseparate-code -Clink-arg=-Wl,-z,norelro -Clink-arg=-Wl,--no-eh-frame-hdr";

/// What the commands execute lies together in the program (`make text-order`): the kernel maps what is around each page that is
/// touched, so that scattered pages cost the whole program's text in memory.
fn order_text(runtime: &Path, profile: &str, target: &str) {
    let order = runtime.join("text-order.ld");
    println!("cargo::rerun-if-changed={}", order.display());
    if profile == "release" && target.starts_with("x86_64-unknown-linux-") {
        println!("cargo::rustc-link-arg-bin=skeg=-Wl,-T,{}", order.display());
    }
}

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let runtime = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    order_text(&runtime, &variable("PROFILE"), &variable("TARGET"));
    let init = runtime.join("../init");
    let out = PathBuf::from(variable("OUT_DIR")).join("init");
    let target = variable("TARGET");
    println!("cargo::rerun-if-changed={}", init.join("src").display());
    println!("cargo::rerun-if-changed={}", init.join("Cargo.toml").display());
    let mut cargo = Command::new(variable("CARGO"));
    for name in OUTER {
        cargo.env_remove(name);
    }
    // rustc has start files of its own for musl, which -nostartfiles does not leave out.
    let own_start = if target.ends_with("-musl") { " -Clink-self-contained=no" } else { "" };
    cargo.env("RUSTFLAGS", format!("{FLAGS}{own_start}"));
    cargo.args(["build", "--quiet", "--locked", "--profile", "init", "--features", "freestanding"]);
    cargo.args(["--bin", "skeg-init", "--target", &target]);
    cargo.arg("--manifest-path").arg(init.join("Cargo.toml")).arg("--target-dir").arg(&out);
    let status = cargo.status().unwrap_or_else(|error| panic!("run cargo for skeg-init: {error}"));
    assert!(status.success(), "build skeg-init: {status}");
    println!("cargo::rustc-env=SKEG_INIT={}", out.join(target).join("init/skeg-init").display());
}
