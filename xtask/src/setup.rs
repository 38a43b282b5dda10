//! Installs what the build, the tests and the demo need and the machine lacks.
//!
//! Looking comes first and costs a few file look-ups: on a machine that has everything nothing
//! else happens. What is missing is worked out as a [`Plan`], printed with reasons, carried out,
//! and looked for again.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};
use dts_ebpf_build::{Missing, Places, Toolchain};

use crate::{apt, cargo_path, is_root};

/// A program that something here starts, and the Debian package that has it.
struct Program {
    command: &'static str,
    package: &'static str,
    why: &'static str,
}

/// A Debian package to install, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
}

const fn program(command: &'static str, package: &'static str, why: &'static str) -> Program {
    Program {
        command,
        package,
        why,
    }
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why }
}

const PROGRAMS: [Program; 19] = [
    program("c++", "g++", "builds bpf-linker and the fuzz targets"),
    program("cc", "gcc", "builds inspectors in C"),
    program("pkg-config", "pkgconf", "tells how to build with libdts"),
    program("nginx", "nginx-light", "the server in each node of the lab"),
    program("haproxy", "haproxy", "a load balancer to compare with"),
    program("gunicorn", "gunicorn", "an application server for uploads"),
    program("exim4", "exim4-daemon-light", "a server that speaks first"),
    program("node", "nodejs", "a server that keeps connections"),
    program("python3", "python3", "runs the application server"),
    program("curl", "curl", "a client"),
    program("wrk", "wrk", "a client that makes load"),
    program("ab", "apache2-utils", "a client that makes load"),
    program("ip", "iproute2", "makes the lab's networks"),
    program("nft", "nftables", "loses and duplicates packets on demand"),
    program(
        "ethtool",
        "ethtool",
        "sets the offloads of the lab's interfaces",
    ),
    program("tcpdump", "tcpdump", "captures handovers"),
    program(
        "ping",
        "iputils-ping",
        "asks who answers for the shared address",
    ),
    program(
        "arping",
        "iputils-arping",
        "asks who answers for the shared address",
    ),
    program(
        "nsenter",
        "util-linux",
        "starts programs in the lab's networks",
    ),
];

/// What some experiments of `dts-bench` need besides: their names, and files that show that it is there.
const OF_EXPERIMENTS: [(&[&str], &str, Package); 3] = [
    (
        &["cps", "keepalive", "bulk", "latency", "filter"],
        "/usr/sbin/iptables-legacy",
        package("iptables", "has the cluster match to compare with"),
    ),
    (
        &["table3", "table4"],
        "/usr/share/tomcat10/bin/bootstrap.jar",
        package("tomcat10-common", "the application server of the paper"),
    ),
    (
        &["table3", "table4"],
        "/usr/bin/java",
        package("default-jre-headless", "runs the application server"),
    ),
];

/// Debian's compiler with a `core` for eBPF. "web" is the version that Debian keeps current for
/// its browsers; the plain `rustc` package is years older.
const COMPILER: [Package; 2] = [
    package("rustc-web", "compiles the packet filter"),
    package("libstd-rust-web-dev-bpf", "Rust's core library for eBPF"),
];

const CLIPPY: Package = package("rust-web-clippy", "lints the packet filter");

/// bpf-linker is made of LLVM; the version is that of the compiler above.
const LINKER: [Package; 5] = [
    package("llvm-22-dev", "bpf-linker is built with it"),
    package("libpolly-22-dev", "bpf-linker is built with it"),
    package("zlib1g-dev", "bpf-linker is built with it"),
    package("libzstd-dev", "bpf-linker is built with it"),
    package("libxml2-dev", "bpf-linker is built with it"),
];
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: u32 = 22;
const LINKER_LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What has to be installed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Debian packages.
    packages: Vec<Package>,
    /// Whether bpf-linker has to be built.
    linker: bool,
}

/// Installs what is missing. Says nothing and does nothing when nothing is.
pub(crate) fn setup() -> anyhow::Result<()> {
    apt::remove_leftover_policy()?;
    let plan = Plan::new(&Places::from_env(), &program_path())?;
    if plan == Plan::default() {
        return Ok(());
    }
    plan.announce();
    if !plan.packages.is_empty() {
        ensure!(
            is_root(),
            "installing packages needs root: run `cargo xtask setup` as root (with rustup's Rust \
             on root's PATH), or install the packages listed above"
        );
        apt::install(&plan.packages)?;
    }
    if plan.linker {
        install_linker()?;
    }
    let rest = Plan::new(&Places::from_env(), &program_path())?;
    ensure!(
        rest == Plan::default(),
        "everything was installed, and yet this is still missing: {}",
        rest.names().join(", ")
    );
    Ok(())
}

/// Installs what an experiment needs besides, if it is missing; `arguments` are those of `dts-bench`.
pub(crate) fn setup_experiment(arguments: &[String]) -> anyhow::Result<()> {
    let plan = Plan {
        packages: experiment_packages(arguments, |file| Path::new(file).exists()),
        linker: false,
    };
    if plan.packages.is_empty() {
        return Ok(());
    }
    plan.announce();
    ensure!(
        is_root(),
        "installing packages needs root, and so does the experiment"
    );
    apt::install(&plan.packages)
}

fn experiment_packages(arguments: &[String], is_there: impl Fn(&str) -> bool) -> Vec<Package> {
    let named = |names: &[&str]| arguments.iter().any(|word| names.contains(&word.as_str()));
    let needed = OF_EXPERIMENTS
        .iter()
        .filter(|(names, file, _)| named(names) && !is_there(file));
    needed.map(|(_, _, package)| *package).collect()
}

impl Plan {
    /// Compares what is needed with what `places` and the folders of `path` have.
    fn new(places: &Places, path: &[PathBuf]) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        let found = Toolchain::find(places);
        let debian = match &found {
            Ok(toolchain) => toolchain.rustc == places.debian_rustc,
            Err(Missing::Compiler) => {
                plan.packages.extend(COMPILER);
                true
            }
            Err(Missing::Linker { rustc }) => *rustc == places.debian_rustc,
            Err(error @ Missing::Chosen { .. }) => bail!("{error}"),
        };
        // A rustup toolchain brings its own.
        if debian && !places.debian_rustc.with_file_name("cargo-clippy").is_file() {
            plan.packages.push(CLIPPY);
        }
        plan.linker = places.linker().is_none();
        if plan.linker {
            plan.packages.extend(LINKER);
        }
        let lacking = PROGRAMS.iter().filter(|program| {
            !path
                .iter()
                .any(|folder| folder.join(program.command).is_file())
        });
        plan.packages
            .extend(lacking.map(|program| package(program.package, program.why)));
        Ok(plan)
    }

    fn names(&self) -> Vec<&'static str> {
        let linker = self.linker.then_some("bpf-linker");
        self.packages
            .iter()
            .map(|package| package.name)
            .chain(linker)
            .collect()
    }

    fn announce(&self) {
        if !self.packages.is_empty() {
            println!("setup: to be installed with apt-get:");
            for Package { name, why } in &self.packages {
                println!("  {name:<24} {why}");
            }
        }
        if self.linker {
            println!("setup: to be built and installed with cargo install (about a minute):");
            println!(
                "  {:<24} links the packet filter",
                format!("bpf-linker {LINKER_VERSION}")
            );
        }
    }
}

/// The folders of the PATH, and those that only root's PATH has.
fn program_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .collect()
}

fn install_linker() -> anyhow::Result<()> {
    if let Err(Missing::Linker { rustc }) = Toolchain::find(&Places::from_env()) {
        let output = Command::new(&rustc)
            .arg("-vV")
            .output()
            .with_context(|| format!("cannot run {}", rustc.display()))?;
        let about = String::from_utf8_lossy(&output.stdout);
        if let Some(llvm) = llvm_major(&about).filter(|llvm| *llvm > LINKER_LLVM) {
            bail!(
                "{} is built on LLVM {llvm}; bpf-linker {LINKER_VERSION} on LLVM {LINKER_LLVM} \
                 cannot read what it writes. Install a bpf-linker for LLVM {llvm}, or name an \
                 older compiler with {}",
                rustc.display(),
                dts_ebpf_build::RUSTC_VARIABLE
            );
        }
    }
    let status = Command::new(cargo_path())
        .args([
            "install",
            "--locked",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
        ])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{LINKER_LLVM}"))
        // The first is what bpf-linker's own build script reads, the second llvm-sys's.
        .env("LLVM_PREFIX", LINKER_LLVM_PREFIX)
        .env(
            format!("LLVM_SYS_{LINKER_LLVM}1_PREFIX"),
            LINKER_LLVM_PREFIX,
        )
        // Of our own build, if set: they are not meant for this one.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .status()
        .context("cannot run cargo")?;
    ensure!(
        status.success(),
        "`cargo install bpf-linker` failed ({status}); what it said stands above"
    );
    Ok(())
}

/// The LLVM version in what `rustc -vV` says.
fn llvm_major(about: &str) -> Option<u32> {
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    /// A folder of programs, removed at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str, programs: &[&str]) -> Self {
            let folder = env::temp_dir().join(format!("dts-setup-{}-{test}", std::process::id()));
            fs::create_dir_all(&folder).expect("make a temporary folder");
            for program in programs {
                fs::write(folder.join(program), "").expect("write a file");
            }
            Self(folder)
        }

        fn path(&self) -> Vec<PathBuf> {
            vec![PathBuf::from("/nonexistent"), self.0.clone()]
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn bare(search_path: Vec<PathBuf>) -> Places {
        let mut places = Places::from_env();
        places.chosen = None;
        places.toolchains = None;
        places.debian_rustc = PathBuf::from("/nonexistent/rustc");
        places.search_path = search_path;
        places
    }

    fn every_command() -> Vec<&'static str> {
        PROGRAMS.iter().map(|program| program.command).collect()
    }

    #[test]
    fn a_bare_machine_gets_everything_once() {
        let plan = Plan::new(&bare(Vec::new()), &[]).expect("a plan");
        assert!(plan.linker);
        let names = plan.names();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        let expected = COMPILER.len() + 1 + LINKER.len() + PROGRAMS.len() + 1;
        assert_eq!(names.len(), expected, "{names:?}");
    }

    #[test]
    fn only_what_is_missing_is_planned() {
        let mut commands = every_command();
        commands.retain(|command| *command != "wrk" && *command != "nft");
        commands.push("bpf-linker");
        let folder = Folder::new("partial", &commands);
        let plan = Plan::new(&bare(folder.path()), &folder.path()).expect("a plan");
        assert!(!plan.linker);
        assert_eq!(
            plan.names(),
            [
                "rustc-web",
                "libstd-rust-web-dev-bpf",
                "rust-web-clippy",
                "wrk",
                "nftables"
            ]
        );
    }

    #[test]
    fn a_missing_linker_brings_its_libraries() {
        let folder = Folder::new("linker", &every_command());
        let plan = Plan::new(&bare(folder.path()), &folder.path()).expect("a plan");
        assert!(plan.linker);
        assert!(plan.packages.contains(&LINKER[0]));
    }

    #[test]
    fn a_bad_choice_of_compiler_is_not_papered_over() {
        let mut places = bare(Vec::new());
        places.chosen = Some(PathBuf::from("/nonexistent/chosen-rustc"));
        let error = Plan::new(&places, &[]).expect_err("the choice is bad");
        assert!(error.to_string().contains("/nonexistent/chosen-rustc"));
    }

    #[test]
    fn an_experiment_brings_what_only_it_needs() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let names = |arguments: &[&str], there: &str| {
            let packages = experiment_packages(&words(arguments), |file| file == there);
            packages.iter().map(|p| p.name).collect::<Vec<_>>()
        };
        let all = ["tomcat10-common", "default-jre-headless"];
        assert_eq!(names(&["--quick", "table4"], ""), all);
        assert_eq!(names(&["table3"], "/usr/bin/java"), all[..1]);
        assert_eq!(names(&["cps"], ""), ["iptables"]);
        assert!(names(&["adopt"], "").is_empty());
    }

    #[test]
    fn the_llvm_version_is_read_from_what_the_compiler_says() {
        let about = "rustc 1.96.0\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(about), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn the_linkers_packages_agree_with_its_llvm() {
        assert!(LINKER_LLVM_PREFIX.ends_with(&format!("llvm-{LINKER_LLVM}")));
        for start in ["llvm", "libpolly"] {
            let name = format!("{start}-{LINKER_LLVM}-dev");
            assert!(LINKER.iter().any(|package| package.name == name), "{name}");
        }
        assert!(Path::new(LINKER_LLVM_PREFIX).is_absolute());
    }
}
