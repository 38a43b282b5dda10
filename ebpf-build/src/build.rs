//! Runs cargo for the filter.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use crate::{Core, TARGET, Toolchain};

/// Why the filter could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// cargo or clippy could not be started.
    #[error("cannot run {}: {source}", .program.display())]
    Start {
        /// cargo, or its clippy.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// cargo ran and failed; what it said stands above.
    #[error(
        "the packet filter in {} does not build ({status}; compiler {}, linker {}). If the \
         linker complains about bitcode or LLVM versions, it was built for an older LLVM than the \
         compiler's: install a newer one, or choose another compiler with DTS_BPF_RUSTC",
        .folder.display(), .toolchain.rustc.display(), .toolchain.linker.display()
    )]
    Failed {
        /// The filter's folder.
        folder: PathBuf,
        /// How cargo ended.
        status: ExitStatus,
        /// What it was run with.
        toolchain: Box<Toolchain>,
    },
    /// clippy has found something; what it said stands above.
    #[error("clippy finds fault with the packet filter in {} ({status})", .folder.display())]
    Lint {
        /// The filter's folder.
        folder: PathBuf,
        /// How clippy ended.
        status: ExitStatus,
    },
}

/// Builds the filter whose crate lies in `folder` and returns the object file's path.
///
/// `target_dir` must not be one that a running cargo has locked: a build script uses a folder of
/// its own below `OUT_DIR`.
///
/// # Errors
///
/// When cargo cannot be started, or fails.
pub fn build(
    toolchain: &Toolchain,
    folder: &Path,
    target_dir: &Path,
) -> Result<PathBuf, BuildError> {
    let mut command = Command::new(cargo_of(toolchain));
    prepare(&mut command, "build", toolchain, folder, target_dir);
    let status = run(&mut command)?;
    if !status.success() {
        return Err(BuildError::Failed {
            folder: folder.to_owned(),
            status,
            toolchain: Box::new(toolchain.clone()),
        });
    }
    Ok(target_dir.join(TARGET).join("release/dts-ebpf"))
}

/// Runs the toolchain's clippy over the filter, every warning an error.
///
/// rustup's stable clippy cannot do it: a lint pass compiles, and it has no `core` for eBPF.
///
/// # Errors
///
/// When clippy cannot be started, or has something to say.
pub fn lint(toolchain: &Toolchain, folder: &Path, target_dir: &Path) -> Result<(), BuildError> {
    let mut command = Command::new(toolchain.clippy());
    prepare(&mut command, "clippy", toolchain, folder, target_dir);
    command
        .env("CARGO", cargo_of(toolchain))
        .args(["--", "-D", "warnings"]);
    let status = run(&mut command)?;
    if !status.success() {
        return Err(BuildError::Lint {
            folder: folder.to_owned(),
            status,
        });
    }
    Ok(())
}

fn cargo_of(toolchain: &Toolchain) -> PathBuf {
    toolchain
        .cargo
        .clone()
        .or_else(|| env::var_os("CARGO").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("cargo"))
}

fn prepare(
    command: &mut Command,
    subcommand: &str,
    toolchain: &Toolchain,
    folder: &Path,
    target_dir: &Path,
) {
    command
        .args([subcommand, "--release", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        // The folder's .cargo/config.toml has the compiler flags.
        .current_dir(folder);
    if toolchain.core == Core::FromSource {
        command.args(["-Z", "build-std=core"]);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_outer_build(name)) {
        command.env_remove(name);
    }
    command
        .env("RUSTC", &toolchain.rustc)
        // The linker's arguments and build-std are unstable, Debian's compiler is a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker);
    if let Some(path) = library_path(toolchain) {
        command.env("LD_LIBRARY_PATH", path);
    }
}

fn run(command: &mut Command) -> Result<ExitStatus, BuildError> {
    command.status().map_err(|source| BuildError::Start {
        program: PathBuf::from(command.get_program()),
        source,
    })
}

/// Whether a variable describes the build that we run in (compiler, wrapper such as clippy's,
/// flags, target folder, toolchain) and would lead the nested one astray.
///
/// What the user says about the network, the registry, the cargo home or the jobs stays.
fn belongs_to_outer_build(name: &OsString) -> bool {
    const STAY: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const GO: [&str; 10] = [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CLIPPY",
        "DEP_",
        "OUT_DIR",
        "TARGET",
        "MIRI",
    ];
    let name = name.to_string_lossy();
    let starts_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    starts_with(&GO) && !starts_with(&STAY)
}

/// A linker that borrows the compiler's LLVM finds it through the library path, where a running
/// cargo has put the libraries of its own compiler; ours must come first.
fn library_path(toolchain: &Toolchain) -> Option<OsString> {
    let sysroot = toolchain.cargo.as_ref()?.parent()?.parent()?;
    let ours = sysroot.join("lib");
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    env::join_paths(std::iter::once(ours).chain(env::split_paths(&others))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_builds_variables_are_told_from_the_users() {
        for name in [
            "CARGO",
            "CARGO_PKG_NAME",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_PROFILE_RELEASE_LTO",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "RUSTDOCFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CLIPPY_ARGS",
            "OUT_DIR",
            "TARGET",
        ] {
            assert!(belongs_to_outer_build(&name.into()), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_MAKEFLAGS",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_CAINFO",
            "CARGO_REGISTRIES_MINE_TOKEN",
            "CARGO_REGISTRY_DEFAULT",
            "CARGO_TERM_COLOR",
            "RUST_BACKTRACE",
        ] {
            assert!(!belongs_to_outer_build(&name.into()), "{name}");
        }
    }
}
