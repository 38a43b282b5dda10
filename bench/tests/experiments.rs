//! Experiments run to their end and leave what they promise. Needs root, and says so.
//!
//! Short ones, with the same code as the long ones: what they measure is of no interest here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The `dts` program: the one that `DTS_PROGRAM` names, or else built where the program under test is.
fn dts() -> PathBuf {
    if let Some(program) = std::env::var_os("DTS_PROGRAM") {
        return program.into();
    }
    let profile = Path::new(env!("CARGO_BIN_EXE_dts-bench"))
        .parent()
        .expect("a program is in a directory");
    let mut build = Command::new(env!("CARGO"));
    build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--locked", "--package", "dts", "--target-dir"])
        .arg(profile.parent().expect("a profile is in a directory"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().unwrap();
    assert!(status.success(), "{build:?}: {status}");
    profile.join("dts")
}

/// Runs an experiment, and returns the names and contents of the files that it left.
fn run(arguments: &[&str]) -> Vec<(String, Vec<u8>)> {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    assert!(root, "experiments need root: run the tests with sudo");
    let runs = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dts-bench"))
        .args(arguments)
        .arg("--dts")
        .arg(dts())
        .arg("--runs")
        .arg(runs.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    let folders: Vec<_> = fs::read_dir(runs.path()).unwrap().flatten().collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    let mut files = Vec::new();
    for file in fs::read_dir(folders[0].path()).unwrap().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        files.push((name, fs::read(file.path()).unwrap()));
    }
    files
}

fn names(files: &[(String, Vec<u8>)]) -> BTreeSet<&str> {
    files.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_handover_is_drawn() {
    let files = run(&["fig4", "--handovers", "2"]);
    let names = names(&files);
    for expected in [
        "set-up.txt",
        "summary.md",
        "raw.csv",
        "splice.svg",
        "adopt.svg",
    ] {
        assert!(names.contains(expected), "{names:?}");
    }
}

#[test]
fn a_cluster_of_small_nodes_is_loaded() {
    let one = ["--repeats", "1", "--seconds", "1", "--nodes", "2"];
    let files = run(&[&["fig6", "--handover", "splice"][..], &one].concat());
    assert_eq!(
        names(&files),
        BTreeSet::from(["fig6.svg", "raw.csv", "set-up.txt", "summary.md"])
    );
    let raw = files.iter().find(|(name, _)| name == "raw.csv").unwrap();
    // A line of names, one for a single inspector, one for multiple ones.
    assert_eq!(String::from_utf8_lossy(&raw.1).lines().count(), 3);
}
