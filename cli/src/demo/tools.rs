//! The programs that the demo needs.

use std::env;
use std::path::Path;

use anyhow::bail;

/// Each with the Debian package that has it.
const TOOLS: [(&str, &str); 8] = [
    ("bridge", "iproute2"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("ss", "iproute2"),
    ("tcpdump", "tcpdump"),
];

/// Fails, with all that is missing, when a program is not in `PATH`.
pub(super) fn check() -> anyhow::Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| env::split_paths(&path).any(|dir| is_file(&dir.join(program)));
    match missing(found) {
        None => Ok(()),
        Some(message) => bail!(message),
    }
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file())
}

/// What to say when programs are missing.
fn missing(found: impl Fn(&str) -> bool) -> Option<String> {
    let missing: Vec<_> = TOOLS.iter().filter(|(tool, _)| !found(tool)).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let names: Vec<&str> = missing.iter().map(|(tool, _)| *tool).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the demo needs {}, not found in PATH (Debian: apt install {})",
            names.join(", "),
            packages.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        assert_eq!(missing(|_| true), None);
        let message = missing(|tool| !["curl", "nginx"].contains(&tool)).unwrap();
        assert_eq!(
            message,
            "the demo needs curl, nginx, not found in PATH (Debian: apt install curl nginx-light)"
        );
    }
}
