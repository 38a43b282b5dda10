//! What `cargo xtask test` and `cargo xtask check` consist of.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};
use dts_ebpf_build::{Places, Toolchain};

use crate::{
    cargo, fuzz, is_root, libdts,
    phases::{Phases, Tally, run, run_tests},
    setup::setup,
    target_dir,
};

/// Crates whose tests (`tests/`) build clusters in network namespaces: as root, one at a time.
const ON_REAL_KERNELS: [&str; 4] = ["dts-lab", "dts-node", "dts", "dts-bench"];

/// How long each parser is given random input with every run of the tests, in seconds.
const FUZZED: u32 = 5;

const DENY_VERSION: &str = "0.20.2";

/// Runs the tests; all of them, or with `fast` those that need neither root nor namespaces.
pub(crate) fn test(root: &Path, fast: bool) -> anyhow::Result<ExitCode> {
    ensure!(
        fast || is_root(),
        "the tests build network namespaces and load packet filters, which takes root: run as \
         root, or run `cargo xtask test --fast` for those that need neither"
    );
    let mut phases = Phases::default();
    // Without the tools nothing else can work, so this one may end it all.
    setup()?;
    if !fast {
        checks(&mut phases, root);
        // Takes a minute to install where it is missing: for CI and `cargo xtask check`.
        if env::var_os("CI").is_some() {
            phases.run("dependencies", |_| dependencies(root));
        }
    }
    phases.run("unit tests", |tests| unit_tests(root, tests));
    phases.run("documentation tests", |tests| {
        documentation_tests(root, tests)
    });
    if !fast {
        fuzz_targets(&mut phases, root, &fuzz::TARGETS, FUZZED);
        phases.run("tests on real kernels", |tests| kernel_tests(root, tests));
    }
    Ok(phases.finish())
}

/// Gives random input to one parser, or to all.
pub(crate) fn fuzz(root: &Path, target: Option<&str>, seconds: u32) -> anyhow::Result<ExitCode> {
    setup()?;
    let mut phases = Phases::default();
    let targets = target.as_slice();
    let targets = if targets.is_empty() {
        &fuzz::TARGETS
    } else {
        targets
    };
    fuzz_targets(&mut phases, root, targets, seconds);
    Ok(phases.finish())
}

fn fuzz_targets(phases: &mut Phases, root: &Path, targets: &[&str], seconds: u32) {
    phases.run("fuzz targets", |tests| {
        fuzz::build(root)?;
        for target in targets {
            println!("{target}: random input for {seconds} s");
            let result = fuzz::fuzz(root, target, seconds);
            tests.count(result.is_ok());
            result?;
        }
        Ok(())
    });
}

/// Runs the checks that need no tests.
pub(crate) fn check(root: &Path) -> anyhow::Result<ExitCode> {
    setup()?;
    let mut phases = Phases::default();
    checks(&mut phases, root);
    phases.run("dependencies", |_| dependencies(root));
    Ok(phases.finish())
}

fn checks(phases: &mut Phases, root: &Path) {
    phases.run("lock files", |_| {
        for manifest in manifests(root) {
            run(cargo(root)
                .args(["metadata", "--locked", "--format-version", "1"])
                .arg("--manifest-path")
                .arg(manifest)
                .stdout(Stdio::null()))
            .context("a Cargo.lock is out of date: build, and commit it")?;
        }
        Ok(())
    });
    phases.run("format", |_| {
        run(cargo(root).args(["fmt", "--all", "--check"]))?;
        run(cargo(root)
            .args(["fmt", "--check", "--manifest-path"])
            .arg(filter_manifest(root)))?;
        run(cargo(root)
            .args(["fmt", "--check", "--manifest-path"])
            .arg(fuzz::manifest(root)))
    });
    phases.run("header of libdts", |_| libdts::check_header(root));
    phases.run("clippy", |_| {
        run(cargo(root)
            .args(["clippy", "--workspace", "--all-targets", "--locked"])
            .args(["--", "-D", "warnings"]))
    });
    phases.run("clippy of the packet filter", |_| {
        let toolchain = Toolchain::find(&Places::from_env())?;
        dts_ebpf_build::lint(
            &toolchain,
            &root.join("ebpf"),
            &target_dir(root).join("ebpf"),
        )?;
        Ok(())
    });
    phases.run("documentation", |_| {
        run(cargo(root)
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "-D warnings"))
    });
}

/// Licences, banned crates and sources. Not advisories: they are looked up on the network.
fn dependencies(root: &Path) -> anyhow::Result<()> {
    let installed = cargo(root)
        .args(["deny", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        println!("installing cargo-deny {DENY_VERSION}, which checks licences and sources");
        // Not optimised: compiling it takes most of the time that it will ever run.
        run(cargo(root)
            .args([
                "install",
                "--locked",
                "--debug",
                "cargo-deny",
                "--version",
                DENY_VERSION,
            ])
            .env_remove("CARGO_TARGET_DIR"))?;
    }
    for manifest in manifests(root) {
        run(cargo(root)
            .args(["deny", "--manifest-path"])
            .arg(manifest)
            .arg("--config")
            .arg(root.join("deny.toml"))
            .args([
                "check",
                "--hide-inclusion-graph",
                "licenses",
                "bans",
                "sources",
            ]))?;
    }
    Ok(())
}

/// What tests without a cluster: modules of every crate, `tests/` of the crates that make none.
fn unit_tests(root: &Path, tests: &mut Tally) -> anyhow::Result<()> {
    let modules = run_tests(
        cargo_test(root).args(["--workspace", "--lib", "--bins"]),
        tests,
    );
    let mut others = cargo_test(root);
    others.args(["--workspace", "--test", "*"]);
    for package in ON_REAL_KERNELS {
        others.args(["--exclude", package]);
    }
    // Both run, whatever the first comes to.
    modules.and(run_tests(&mut others, tests))
}

fn documentation_tests(root: &Path, tests: &mut Tally) -> anyhow::Result<()> {
    run_tests(cargo_test(root).args(["--workspace", "--doc"]), tests)
}

fn kernel_tests(root: &Path, tests: &mut Tally) -> anyhow::Result<()> {
    let mut command = cargo_test(root);
    for package in ON_REAL_KERNELS {
        command.args(["--package", package]);
    }
    // Built along with these tests. By itself it would have other features of its dependencies, and be built once more.
    let program = root.join(target_dir(root)).join("debug/dts");
    command.env("DTS_PROGRAM", program);
    // They measure, and share the machine's interfaces, cores and cgroups.
    command.args(["--test", "*", "--", "--test-threads=1"]);
    run_tests(&mut command, tests)
}

fn cargo_test(root: &Path) -> Command {
    let mut command = cargo(root);
    command.args(["test", "--locked", "--no-fail-fast"]);
    command
}

fn filter_manifest(root: &Path) -> PathBuf {
    root.join("ebpf/Cargo.toml")
}

/// Whatever has a Cargo.lock.
fn manifests(root: &Path) -> [PathBuf; 3] {
    [
        root.join("Cargo.toml"),
        filter_manifest(root),
        fuzz::manifest(root),
    ]
}
