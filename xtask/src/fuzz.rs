//! Runs the fuzz targets (`fuzz/`) under libFuzzer, with the stable compiler.
//!
//! What cargo-fuzz adds to this is sanitizers, which need a nightly compiler and find errors in unsafe code. Our parsers
//! have none; coverage, which leads the fuzzer, is a plain pass of LLVM's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{cargo, phases::run, target_dir};

/// The targets, by the names of their programs.
pub(crate) const TARGETS: [&str; 4] = ["config", "http", "inspector", "wire"];

/// Counters and comparisons at every edge, as libFuzzer wants them.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The targets stand outside the workspace.
pub(crate) fn manifest(root: &Path) -> PathBuf {
    root.join("fuzz/Cargo.toml")
}

/// Builds the targets.
pub(crate) fn build(root: &Path) -> anyhow::Result<()> {
    run(fuzz_cargo(root, "build").arg("--bins"))
}

/// Gives a target random input for so many seconds, beginning with what earlier runs found of interest. A failure
/// leaves its input below `target/fuzz/found`.
pub(crate) fn fuzz(root: &Path, target: &str, seconds: u32) -> anyhow::Result<()> {
    let folder = |name: &str| {
        let path = target_dir(root).join("fuzz").join(name).join(target);
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))
            .map(|()| path)
    };
    let (corpus, found) = (folder("corpus")?, folder("found")?);
    run(fuzz_cargo(root, "run")
        .args(["--bin", target, "--"])
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"])
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg(corpus))
}

fn fuzz_cargo(root: &Path, task: &str) -> Command {
    let mut command = cargo(root);
    command
        .args([task, "--quiet", "--release", "--locked"])
        .arg("--manifest-path")
        .arg(manifest(root))
        // With a target of their own, the flags are not for build scripts and macros.
        .args(["--target", "host-tuple", "--target-dir"])
        .arg(target_dir(root).join("fuzz"))
        .env("RUSTFLAGS", COVERAGE);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_listed() {
        let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
        let mut names: Vec<_> = fs::read_dir(targets)
            .expect("the fuzz targets")
            .map(|entry| entry.expect("an entry").path())
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        assert_eq!(names, TARGETS);
    }
}
