//! The program itself: what it prints, and how it exits.

mod daemon;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const DTS: &str = env!("CARGO_BIN_EXE_dts");

/// The example that is installed with the program.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/dts.toml");

/// The user and group `nobody` of Debian, and of most others.
const NOBODY: u32 = 65534;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn dts(arguments: &[&str]) -> Ran {
    Command::new(DTS).args(arguments).output().unwrap().into()
}

/// Runs the program without any privileges. A copy of it, because the build may be where only its owner may look.
fn dts_as_nobody(arguments: &[&str]) -> Ran {
    let directory = open_directory();
    let copy = directory.path().join("dts");
    fs::copy(DTS, &copy).unwrap();
    let mut command = Command::new(copy);
    command
        .args(arguments)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY);
    command
        .output()
        .expect("to change the user takes root")
        .into()
}

/// A directory that everybody may enter.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_version_names_the_release() {
    let ran = dts(&["--version"]);
    let expected = concat!("dts ", env!("CARGO_PKG_VERSION"));
    assert!(ran.stdout.starts_with(expected), "{}", ran.stdout);
    assert_eq!(ran.code, 0);
}

#[test]
fn a_command_that_is_none_exits_with_2() {
    let ran = dts(&["serve"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(
        ran.stderr.contains("unrecognized subcommand 'serve'"),
        "{}",
        ran.stderr
    );
}

#[test]
fn the_installed_example_is_right() {
    let ran = dts(&["check", "--config", EXAMPLE]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let summary = "ok: node n1 of cluster demo, 2 nodes, 1 service\n";
    assert!(ran.stdout.ends_with(summary), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dts.toml");
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let broken = example
        .replace("front = \"eth0\"", "frnt = \"eth0\"")
        .replace("port = 80\n", "port = 0\n");
    fs::write(&path, broken).unwrap();
    let ran = dts(&["check", "--config", text(&path)]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    let places: Vec<_> = ran
        .stderr
        .lines()
        .filter(|line| line.contains(": error: "))
        .filter_map(|line| line.strip_prefix(text(&path)))
        .map(|line| line.split(": error").next().unwrap())
        .collect();
    assert!(places.contains(&":13:1"), "{}", ran.stderr);
    assert!(
        places.iter().any(|place| place.starts_with(":31:")),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("\n  help: "), "{}", ran.stderr);
    let errors = format!("dts.toml: {} errors\n", places.len());
    assert!(ran.stderr.ends_with(&errors), "{}", ran.stderr);
}

#[test]
fn findings_are_given_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dts.toml");
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let spliced = example.replace("mode = \"l7\"", "mode = \"l7\"\nhandover = \"splice\"");
    fs::write(&path, spliced).unwrap();
    let ran = dts(&["check", "--json", "--config", text(&path)]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &report["errors"]),
        (&true.into(), &0.into())
    );
    let warning = &report["findings"][0];
    assert_eq!(
        (&warning["severity"], &warning["line"]),
        (&"warning".into(), &28.into())
    );
    assert!(warning["help"].is_string(), "{warning}");
    assert_eq!(ran.code, 0);
}

#[test]
fn a_missing_configuration_is_named() {
    for command in ["check", "node", "status"] {
        let ran = dts(&[command, "--config", "/nonexistent/dts.toml"]);
        assert_eq!(ran.code, 1, "{command}");
        assert!(
            ran.stderr
                .contains("/nonexistent/dts.toml: cannot read the configuration: No such file"),
            "{command}: {}",
            ran.stderr
        );
        assert_eq!(
            ran.stderr.matches("No such file").count(),
            1,
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_secret_is_new_each_time_and_written_for_its_owner_only() {
    let [one, two] = [(); 2].map(|()| dts(&["secret"]).stdout);
    for secret in [&one, &two] {
        assert_eq!(secret.trim_end().len(), 64);
        assert!(
            secret
                .trim_end()
                .bytes()
                .all(|digit| digit.is_ascii_hexdigit())
        );
    }
    assert_ne!(one, two);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let ran = dts(&["secret", "--out", text(&path)]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let again = dts(&["secret", "--out", text(&path)]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("remove it first"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), written);
}

#[test]
fn without_privileges_it_says_so_at_once() {
    for command in [&["node"][..], &["detach"], &["demo"]] {
        let ran = dts_as_nobody(command);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{command:?}");
        assert!(
            ran.stderr.contains("run as root"),
            "{command:?}: {}",
            ran.stderr
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn what_needs_no_privileges_works_without() {
    let directory = open_directory();
    let path = directory.path().join("dts.toml");
    fs::copy(EXAMPLE, &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(dts_as_nobody(&["check", "--config", text(&path)]).code, 0);
    assert_eq!(dts_as_nobody(&["secret"]).code, 0);
    assert_eq!(dts_as_nobody(&["lab", "list"]).code, 0);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = Command::new(DTS)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn completions_and_manual_pages_are_made_of_the_command_line() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = dts(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("connections"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(dts(&["man", text(directory.path())]).code, 0);
    for page in ["dts.1", "dts-node.1", "dts-lab-up.1"] {
        let page = fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(page.contains(".SH NAME"), "{page}");
    }
    let ran = dts(&["man", "/nonexistent"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("/nonexistent: no such directory"),
        "{}",
        ran.stderr
    );
}
