//! `dts demo`, run as a user runs it. Needs root; fails without.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const DTS: &str = env!("CARGO_BIN_EXE_dts");

/// The user `nobody` of Debian, and of most others.
const NOBODY: u32 = 65534;

fn lab_name(tag: &str) -> String {
    format!("demo{tag}{}", std::process::id())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a lab of this name has left in the system.
fn left_behind(name: &str) -> Vec<String> {
    let in_directory = |directory: &str| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter(|entry| entry.contains(name))
            .map(|entry| format!("{directory}/{entry}"))
            .collect::<Vec<_>>()
    };
    ["/run/dts-lab", "/run/netns", "/sys/fs/bpf/dts-lab"]
        .into_iter()
        .flat_map(in_directory)
        .collect()
}

fn demo(name: &str, arguments: &[&str]) -> Output {
    Command::new(DTS)
        .args(["demo", "--name", name])
        .args(arguments)
        .output()
        .unwrap()
}

/// Waits until a demo that was just started has made a file.
fn wait_for(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < deadline, "no {}", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The request lines: those that start with a number and a path.
fn requests(output: &str) -> Vec<Vec<&str>> {
    output
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() == 9 && words[1].starts_with('/'))
        .collect()
}

#[test]
fn shows_requests_and_a_ladder_and_leaves_nothing() {
    let name = lab_name("a");
    let directory = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let ran = demo(
        &name,
        &["--nodes", "3", "--pcap", directory.path().to_str().unwrap()],
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    let (output, errors) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{output}{errors}");

    let requests = requests(&output);
    assert_eq!(requests.len(), 17, "{output}");
    for words in requests {
        let [
            _,
            path,
            _,
            inspected,
            processed,
            sender,
            status,
            _,
            checksum,
        ] = words[..]
        else {
            unreachable!("lines of nine words");
        };
        assert_eq!((status, checksum), ("200", "ok"), "{output}");
        assert_eq!(processed, sender, "{output}");
        let owner = path.split('/').nth(1).unwrap();
        if owner.starts_with('n') {
            assert_eq!(processed, owner, "{output}");
        } else if owner == "whoami" {
            assert_eq!(processed, inspected, "{output}");
        }
    }
    for step in [
        "segment 1",
        "segment 2",
        "segment 4",
        "segment 5",
        "§2.2, at the end",
    ] {
        assert!(output.contains(step), "{step} is missing in {output}");
    }
    assert!(
        !output.contains('\u{1b}'),
        "colour, but this is no terminal"
    );
    let widest = output
        .lines()
        .max_by_key(|line| line.chars().count())
        .unwrap();
    assert!(
        widest.chars().count() <= 100,
        "wider than 100 columns: {widest}"
    );

    let captures = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(captures, 1 + 2 * 3);
    assert_eq!(left_behind(&name), Vec::<String>::new());
}

#[test]
fn one_node_shows_the_handover_to_itself() {
    let name = lab_name("b");
    let ran = demo(&name, &["--nodes", "1"]);
    let output = text(&ran.stdout);
    assert!(ran.status.success(), "{output}{}", text(&ran.stderr));
    assert!(
        output.contains("inspected by n1, processed by n1"),
        "{output}"
    );
}

#[test]
fn ctrl_c_leaves_nothing() {
    let name = lab_name("c");
    let mut demo = Command::new(DTS)
        .args(["demo", "--name", &name])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("Starting"));
    // In the middle of its work: the lab is there, the requests are not all made.
    wait_for(&Path::new("/run/dts-lab").join(&name).join("n1/www/n1"));
    let pid = demo.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(killed.success());
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(left_behind(&name), Vec::<String>::new());
}

#[test]
fn what_is_not_as_it_must_be_fails_the_demo() {
    let name = lab_name("e");
    let demo = Command::new(DTS)
        .args(["demo", "--nodes", "2", "--name", &name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // All is published, the captures start: time to spoil one of the last files to be fetched.
    let nodes = Path::new("/run/dts-lab").join(&name);
    wait_for(&nodes.join("n2/www/downloads/b.iso"));
    std::fs::write(nodes.join("n2/www/n2/300000.bin"), "something else").unwrap();

    let ran = demo.wait_with_output().unwrap();
    let output = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{output}");
    assert!(output.contains("WRONG"), "{output}");
    assert!(
        output.contains("(/n2/300000.bin): wrong checksum"),
        "{output}"
    );
    assert!(text(&ran.stderr).contains("not as they must be"));
    assert_eq!(left_behind(&name), Vec::<String>::new());
}

#[test]
fn says_what_is_missing() {
    let without_tools = Command::new(DTS)
        .arg("demo")
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let errors = text(&without_tools.stderr);
    assert_eq!(without_tools.status.code(), Some(1));
    for word in ["curl", "nginx", "tcpdump", "apt install"] {
        assert!(errors.contains(word), "{errors}");
    }

    // A copy where that user may run it, which need not be so where it was built.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("dts");
    std::fs::copy(DTS, &copy).unwrap();
    let mut without_root = Command::new(copy);
    without_root.arg("demo").current_dir("/").uid(NOBODY);
    let without_root = without_root.output().unwrap();
    let errors = text(&without_root.stderr);
    assert_eq!(without_root.status.code(), Some(1));
    assert!(errors.contains("root"), "{errors}");
}

#[test]
fn a_kept_lab_can_be_used_and_removed() {
    let name = lab_name("d");
    let ran = demo(&name, &["--nodes", "2", "--keep"]);
    let whoami = Command::new(DTS)
        .args(["lab", "exec", "--name", &name, "client", "--"])
        .args([
            "curl",
            "-sS",
            "--max-time",
            "5",
            "http://198.18.0.100/whoami",
        ])
        .output()
        .unwrap();
    let down = Command::new(DTS)
        .args(["lab", "down", &name])
        .status()
        .unwrap();
    let output = text(&ran.stdout);
    assert!(ran.status.success(), "{output}{}", text(&ran.stderr));
    assert!(output.contains(&format!("dts lab down {name}")), "{output}");
    assert!(text(&whoami.stdout).starts_with('n'), "{whoami:?}");
    assert!(down.success());
    assert_eq!(left_behind(&name), Vec::<String>::new());
}
