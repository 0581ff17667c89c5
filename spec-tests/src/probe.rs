//! The statically linked probe on the host: this program itself where it is static, else a static build of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ensure;
use crate::failure::{During, Outcome};

/// Finds or builds the probe.
pub fn locate() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    if is_static(&own)? { Ok(own) } else { build() }
}

/// A statically linked program asks for no loader: it has no `PT_INTERP` segment (elf(5)).
fn is_static(program: &Path) -> Outcome<bool> {
    const PT_INTERP: u32 = 3;
    let bytes = fs::read(program)?;
    let number = |at: usize, width: usize| {
        let mut value = [0u8; 8];
        value[..width].copy_from_slice(bytes.get(at..at + width)?);
        usize::try_from(u64::from_le_bytes(value)).ok()
    };
    // 64-bit ELF: e_phoff at 32, e_phentsize at 54, e_phnum at 56; p_type opens each header.
    let table = number(32, 8).during("program headers")?;
    let size = number(54, 2).during("size of a program header")?;
    let count = number(56, 2).during("number of program headers")?;
    Ok((0..count).all(|index| number(table + index * size, 4) != usize::try_from(PT_INTERP).ok()))
}

/// Builds the static form with the cargo that started us: proc macros cannot be linked statically, which is why the
/// flag needs an explicit target.
fn build() -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let rustc = Command::new("rustc").arg("-vV").output().during("ask rustc for its target")?;
    let text = String::from_utf8(rustc.stdout)?;
    let target =
        text.lines().find_map(|line| line.strip_prefix("host: ")).during("the host's target triple")?;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    eprintln!("spec-tests: building the statically linked probe");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--target", target, "--manifest-path"])
        .arg(&manifest)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .stdin(Stdio::null())
        .status()
        .during("build the probe")?;
    ensure!(status.success(), "build of the probe failed");
    let workspace = manifest.parent().and_then(Path::parent).during("the workspace")?;
    let target_dir =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target_dir.join(target).join("debug/spec-tests"))
}
