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
const SERVICES: [(&str, &str); 3] = [
    ("nginx-light", "nginx"),
    ("haproxy", "haproxy"),
    ("exim4-daemon-light", "exim4"),
];

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
        &mut install_command(Path::new(POLICY), &names),
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

fn install_command(policy: &Path, names: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", INSTALL, "setup"])
        .arg(policy)
        .arg(POLICY_MARK)
        .args(names);
    command
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

#[cfg(test)]
mod tests {
    use std::{env, path::PathBuf, process::Output};

    use super::*;

    /// A folder with a stand-in for apt-get and a place for the policy.
    struct Machine(PathBuf);

    impl Machine {
        /// `apt_get` is shell; `$policy` is the policy's path, `$*` what apt-get was told.
        fn new(test: &str, apt_get: &str) -> Self {
            let machine =
                Self(env::temp_dir().join(format!("dts-apt-{}-{test}", std::process::id())));
            fs::create_dir_all(&machine.0).expect("make a temporary folder");
            // Written by another process: while this one has a program open for writing, the
            // children of tests that run at the same time may hold it open too, and a program that
            // is being written cannot be run.
            let policy = machine.policy();
            let script = format!("#!/bin/sh\npolicy={}\n{apt_get}\n", policy.display());
            let status = Command::new("sh")
                .args(["-c", r#"printf %s "$2" >"$1" && chmod 755 "$1""#, "write"])
                .arg(machine.0.join("apt-get"))
                .arg(script)
                .status()
                .expect("run a shell");
            assert!(status.success());
            machine
        }

        fn policy(&self) -> PathBuf {
            self.0.join("policy-rc.d")
        }

        fn install(&self, names: &[&str]) -> Output {
            let path = env::var("PATH").expect("there is a PATH");
            install_command(&self.policy(), names)
                .env("PATH", format!("{}:{path}", self.0.display()))
                .output()
                .expect("run a shell")
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn services_are_forbidden_to_start_while_packages_are_installed() {
        let machine = Machine::new("install", r#""$policy" nginx start; echo "$? $*""#);
        let output = machine.install(&["nginx-light", "curl"]);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success());
        assert!(told.starts_with("101 -q install --yes"), "{told}");
        assert!(told.ends_with("-- nginx-light curl\n"), "{told}");
        assert!(!machine.policy().exists());
    }

    #[test]
    fn the_policy_goes_when_the_installation_fails() {
        let machine = Machine::new("fail", "exit 100");
        assert_eq!(machine.install(&["curl"]).status.code(), Some(100));
        assert!(!machine.policy().exists());
    }

    #[test]
    fn the_policy_goes_when_the_installation_is_interrupted() {
        let machine = Machine::new("interrupt", "kill -TERM $PPID");
        assert_eq!(machine.install(&["curl"]).status.code(), Some(130));
        assert!(!machine.policy().exists());
    }

    #[test]
    fn a_policy_of_the_machine_stays_as_it_is() {
        let machine = Machine::new("own", "true");
        fs::write(machine.policy(), "the machine's own").expect("write a file");
        assert!(machine.install(&["curl"]).status.success());
        remove_policy_at(&machine.policy()).expect("nothing to remove");
        let text = fs::read_to_string(machine.policy()).expect("the policy is there");
        assert_eq!(text, "the machine's own");
    }

    #[test]
    fn a_leftover_policy_is_removed() {
        // Killed, not interrupted: no trap runs.
        let machine = Machine::new("leftover", "kill -KILL $PPID");
        assert_eq!(machine.install(&["curl"]).status.code(), None);
        assert!(machine.policy().exists());
        remove_policy_at(&machine.policy()).expect("remove the policy");
        assert!(!machine.policy().exists());
    }
}
