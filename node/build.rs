//! Builds the packet filter and tells the crate where the object is (`DTS_EBPF_OBJECT`).

use std::{env, path::PathBuf, process::ExitCode};

use dts_ebpf_build::{Places, RUSTC_VARIABLE, Toolchain, build};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not a panic: its message is what somebody without the tools reads first.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for input in [
        "ebpf/src",
        "ebpf/Cargo.toml",
        "ebpf/Cargo.lock",
        "ebpf/.cargo/config.toml",
        "core/src",
        "core/Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo:rerun-if-env-changed={RUSTC_VARIABLE}");

    let toolchain = Toolchain::find(&Places::from_env())?;
    for tool in [&toolchain.rustc, &toolchain.linker] {
        println!("cargo:rerun-if-changed={}", tool.display());
    }
    let target_dir = PathBuf::from(env::var("OUT_DIR")?).join("ebpf-target");
    let object = build(&toolchain, &root.join("ebpf"), &target_dir)?;
    println!("cargo:rustc-env=DTS_EBPF_OBJECT={}", object.display());
    Ok(())
}
