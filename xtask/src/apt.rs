//! Installs Debian packages without starting what is in them.
//!
//! Debian starts a service as soon as its package is installed, and at every boot from then on. A
//! developer who wants to see the demo has not asked for an nginx on port 80. Debian's way to say
//! no is `/usr/sbin/policy-rc.d`; it is put there for the time of the installation, unless the
//! machine has one of its own.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::setup::Package;

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// How a policy of ours is told from somebody else's.
const POLICY_MARK: &str = "written by cargo xtask setup";

/// Packages that come with a service of the same name, or the name given.
const SERVICES: [(&str, &str); 2] = [("nginx-light", "nginx"), ("haproxy", "haproxy")];

/// A shell does it: its trap takes the policy away again also when the user interrupts.
/// Arguments: the policy's path, the mark, then the packages.
const INSTALL: &str = r#"
set -eu
policy=$1 mark=$2
shift 2
if ! [ -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n# %s; removed at its end\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
fi
apt-get -q install --yes --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -- "$@"
"#;

/// Installs packages; services among them are neither started nor enabled.
pub(crate) fn install(packages: &[Package]) -> anyhow::Result<()> {
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    // One source that cannot be reached need not be one that we want anything from.
    if let Err(error) = run(
        Command::new("apt-get").args(["-q", "update"]),
        "updating the package lists",
    ) {
        eprintln!("warning: {error:#}; trying with the lists at hand");
    }
    run(
        Command::new("sh")
            .args(["-c", INSTALL, "setup", POLICY, POLICY_MARK])
            .args(&names),
        "installing the packages",
    )?;
    for (_, service) in SERVICES
        .iter()
        .filter(|(package, _)| names.contains(package))
    {
        disable(service)?;
    }
    Ok(())
}

/// Removes the policy that a killed set-up has left; a policy that is not ours stays.
pub(crate) fn remove_leftover_policy() -> anyhow::Result<()> {
    remove_policy_at(Path::new(POLICY)).with_context(|| {
        format!(
            "{POLICY} was left by an interrupted `cargo xtask setup` and keeps services from \
                 starting; remove it as root"
        )
    })
}

fn remove_policy_at(policy: &Path) -> io::Result<()> {
    match fs::read_to_string(policy) {
        Ok(text) if text.contains(POLICY_MARK) => fs::remove_file(policy),
        _ => Ok(()),
    }
}

fn disable(service: &str) -> anyhow::Result<()> {
    run(
        Command::new("update-rc.d").args([service, "disable"]),
        "keeping a service from starting at boot",
    )
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status();
    let status = match status {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(error).with_context(|| {
                format!(
                    "{what}: there is no {program}. `cargo xtask setup` knows Debian only; \
                     install the programs listed above in your system's way"
                )
            });
        }
        other => other.with_context(|| format!("{what}: cannot run {program}"))?,
    };
    ensure!(
        status.success(),
        "{what} failed ({status}); what {program} said stands above"
    );
    Ok(())
}
