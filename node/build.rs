//! Builds the packet filter and tells the crate where the object is (`DTS_EBPF_OBJECT`).

use std::{env, path::PathBuf, process};

use dts_ebpf_build::{Places, RUSTC_VARIABLE, Toolchain, build};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = folder.parent().ok_or("the crate is not in the workspace")?;
    for input in [
        "ebpf/src",
        "ebpf/Cargo.toml",
        "ebpf/Cargo.lock",
        "ebpf/.cargo/config.toml",
        "core/src",
        "core/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={RUSTC_VARIABLE}");

    let toolchain = match Toolchain::find(&Places::from_env()) {
        Ok(toolchain) => toolchain,
        Err(missing) => {
            // cargo shows this and no dump of the script's output: it is what somebody who lacks
            // the tools reads first.
            println!("cargo::error={missing}");
            return Ok(());
        }
    };
    for tool in [&toolchain.rustc, &toolchain.linker] {
        println!("cargo::rerun-if-changed={}", tool.display());
    }
    let target_dir = PathBuf::from(env::var("OUT_DIR")?).join("ebpf-target");
    let object = match build(&toolchain, &root.join("ebpf"), &target_dir) {
        Ok(object) => object,
        Err(error) => {
            println!("cargo::error={error}");
            // The compiler's messages are in our output, which cargo shows of a failed script.
            process::exit(1);
        }
    };
    println!("cargo::rustc-env=DTS_EBPF_OBJECT={}", object.display());
    Ok(())
}
