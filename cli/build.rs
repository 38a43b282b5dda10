//! Tells the crate the revision it is built from (`DTS_REVISION`), for `dts --version`.

use std::process::Command;

fn main() {
    // A commit moves HEAD's log; neither HEAD nor a packed branch need change as a file.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    // A source archive has none, and is built all the same.
    let revision = git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_default();
    println!("cargo:rustc-env=DTS_REVISION={revision}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success()).then(|| text.trim().to_owned())
}
