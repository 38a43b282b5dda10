//! Which compiler and linker build the filter.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{RUSTC_VARIABLE, TARGET};

/// Where to look for the tools. [`Places::from_env`] is what everybody wants; tests make their own.
#[derive(Debug, Clone)]
pub struct Places {
    /// The compiler that the user asks for (`DTS_BPF_RUSTC`).
    pub chosen: Option<PathBuf>,
    /// rustup's toolchains, one folder each.
    pub toolchains: Option<PathBuf>,
    /// Debian's compiler.
    pub debian_rustc: PathBuf,
    /// Folders to look for `bpf-linker` in.
    pub search_path: Vec<PathBuf>,
    /// Asks a compiler for its sysroot; tests have no compiler to run.
    sysroot: fn(&Path) -> Result<PathBuf, String>,
}

/// A compiler and a linker that can build the filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// The compiler's own cargo. `None`: any recent cargo will do.
    pub cargo: Option<PathBuf>,
    /// `bpf-linker`.
    pub linker: PathBuf,
    /// Where `core` for eBPF comes from.
    pub core: Core,
}

/// Where `core` for eBPF comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// It came with the compiler.
    Prebuilt,
    /// Its source came with the compiler; cargo builds it (`-Z build-std=core`).
    FromSource,
}

/// Why no toolchain was found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Missing {
    /// No compiler has `core` for eBPF.
    #[error(
        "no Rust compiler here can build eBPF: run `cargo xtask setup` as root (on Debian it \
         installs rustc-web and libstd-rust-web-dev-bpf), or install a nightly with its source: \
         rustup toolchain install nightly --component rust-src"
    )]
    Compiler,
    /// The compiler that the user asked for does not run or has no `core` for eBPF.
    #[error(
        "{RUSTC_VARIABLE}={}: {problem}; name a rustc that has {TARGET} or rust-src, or unset \
         the variable to have one looked for", .rustc.display()
    )]
    Chosen {
        /// The compiler that the user asked for.
        rustc: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is a compiler, but no `bpf-linker`.
    #[error(
        "bpf-linker, which {} needs to build eBPF, is not installed: run `cargo xtask setup` as \
         root", .rustc.display()
    )]
    Linker {
        /// The compiler that needs it.
        rustc: PathBuf,
    },
}

impl Places {
    /// The places of this machine and user.
    #[must_use]
    pub fn from_env() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let in_home = |variable: &str, folder: &str| {
            env::var_os(variable)
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(folder)))
        };
        let mut search_path: Vec<PathBuf> = env::var_os("PATH")
            .map(|path| env::split_paths(&path).collect())
            .unwrap_or_default();
        // Where `cargo install` puts it, on the PATH or not.
        search_path.extend(in_home("CARGO_HOME", ".cargo").map(|cargo| cargo.join("bin")));
        Self {
            chosen: env::var_os(RUSTC_VARIABLE)
                .filter(|rustc| !rustc.is_empty())
                .map(PathBuf::from),
            toolchains: in_home("RUSTUP_HOME", ".rustup").map(|rustup| rustup.join("toolchains")),
            debian_rustc: PathBuf::from("/usr/bin/rustc"),
            search_path,
            sysroot,
        }
    }

    /// Where `bpf-linker` is, if it is installed.
    #[must_use]
    pub fn linker(&self) -> Option<PathBuf> {
        self.search_path
            .iter()
            .map(|folder| folder.join("bpf-linker"))
            .find(|linker| linker.is_file())
    }
}

impl Toolchain {
    /// Finds a toolchain: the one the user chose, else a nightly with its source, else Debian's.
    ///
    /// # Errors
    ///
    /// [`Missing`] says what to install. A missing compiler is reported before a missing linker.
    pub fn find(places: &Places) -> Result<Self, Missing> {
        let (rustc, cargo, core) = match &places.chosen {
            Some(rustc) => chosen(places, rustc)?,
            None => nightly(places)
                .or_else(|| debian(places))
                .ok_or(Missing::Compiler)?,
        };
        let Some(linker) = places.linker() else {
            return Err(Missing::Linker { rustc });
        };
        Ok(Self {
            rustc,
            cargo,
            linker,
            core,
        })
    }

    /// Where the compiler's own clippy is, if it is installed.
    #[must_use]
    pub fn clippy(&self) -> PathBuf {
        self.rustc.with_file_name("cargo-clippy")
    }
}

type Compiler = (PathBuf, Option<PathBuf>, Core);

fn chosen(places: &Places, rustc: &Path) -> Result<Compiler, Missing> {
    let problem = |problem: String| Missing::Chosen {
        rustc: rustc.to_owned(),
        problem,
    };
    let sysroot = (places.sysroot)(rustc).map_err(problem)?;
    let core = core_in(&sysroot)
        .ok_or_else(|| problem(format!("no core for {TARGET} in {}", sysroot.display())))?;
    Ok((rustc.to_owned(), cargo_in(&sysroot), core))
}

/// The first nightly of rustup that can do it; the undated one sorts before the dated ones.
fn nightly(places: &Places) -> Option<Compiler> {
    let mut toolchains: Vec<PathBuf> = fs::read_dir(places.toolchains.as_ref()?)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
        })
        .collect();
    // "nightly-2026-..." before "nightly-x86_64-...": reversed, the undated one comes first and
    // the newest of the dated ones next.
    toolchains.sort();
    toolchains.into_iter().rev().find_map(|sysroot| {
        let rustc = sysroot.join("bin/rustc");
        let core = core_in(&sysroot)?;
        rustc.is_file().then(|| (rustc, cargo_in(&sysroot), core))
    })
}

fn debian(places: &Places) -> Option<Compiler> {
    let rustc = &places.debian_rustc;
    if !rustc.is_file() {
        return None;
    }
    // Its rust-src, where installed, is of no use: Debian leaves out what build-std needs.
    match core_in(&(places.sysroot)(rustc).ok()?)? {
        Core::Prebuilt => Some((rustc.clone(), None, Core::Prebuilt)),
        Core::FromSource => None,
    }
}

fn sysroot(rustc: &Path) -> Result<PathBuf, String> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("cannot run it: {error}"))?;
    if !output.status.success() {
        return Err(format!("`--print sysroot` ended with {}", output.status));
    }
    let path = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(path.trim()))
}

fn cargo_in(sysroot: &Path) -> Option<PathBuf> {
    // Only a rustup toolchain's cargo is known to belong to its compiler.
    let cargo = sysroot.join("bin/cargo");
    (sysroot != Path::new("/usr") && cargo.is_file()).then_some(cargo)
}

fn core_in(sysroot: &Path) -> Option<Core> {
    let rustlib = sysroot.join("lib/rustlib");
    let prebuilt = fs::read_dir(rustlib.join(TARGET).join("lib"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        });
    if prebuilt {
        Some(Core::Prebuilt)
    } else if rustlib.join("src/rust/library/core/Cargo.toml").is_file() {
        Some(Core::FromSource)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// A machine of empty files, removed at the end of the test.
    struct Machine(PathBuf);

    impl Machine {
        fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let root = env::temp_dir().join(format!("dts-toolchain-{}-{number}", process::id()));
            fs::create_dir_all(&root).expect("make a temporary folder");
            Self(root)
        }

        fn file(&self, path: &str) -> PathBuf {
            self.file_with(path, "")
        }

        fn file_with(&self, path: &str, text: &str) -> PathBuf {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("is below the root")).expect("make a folder");
            fs::write(&path, text).expect("write a file");
            path
        }

        /// A compiler: a file that holds its sysroot.
        fn rustc(&self, path: &str, sysroot: &str) -> PathBuf {
            let sysroot = self.0.join(sysroot);
            self.file_with(path, &sysroot.to_string_lossy())
        }

        fn with_nightly(&self, name: &str) -> PathBuf {
            let root = format!("rustup/{name}");
            self.file(&format!(
                "{root}/lib/rustlib/src/rust/library/core/Cargo.toml"
            ));
            self.file(&format!("{root}/bin/cargo"));
            self.file(&format!("{root}/bin/rustc"))
        }

        fn with_debian(&self) -> PathBuf {
            self.file("usr/lib/rustlib/bpfel-unknown-none/lib/libcore-1234.rlib");
            self.rustc("usr/bin/rustc", "usr")
        }

        fn with_linker(&self) -> PathBuf {
            self.file("bin/bpf-linker")
        }

        fn places(&self) -> Places {
            Places {
                chosen: None,
                toolchains: Some(self.0.join("rustup")),
                debian_rustc: self.0.join("usr/bin/rustc"),
                search_path: vec![self.0.join("nowhere"), self.0.join("bin")],
                sysroot: |rustc| {
                    let sysroot = fs::read_to_string(rustc).map_err(|error| error.to_string())?;
                    Ok(PathBuf::from(sysroot))
                },
            }
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nothing_installed_names_the_command() {
        let machine = Machine::new();
        let missing = Toolchain::find(&machine.places()).expect_err("there is nothing");
        assert_eq!(missing, Missing::Compiler);
        assert!(missing.to_string().contains("cargo xtask setup"));
    }

    #[test]
    fn debian_without_linker_names_the_linker() {
        let machine = Machine::new();
        let rustc = machine.with_debian();
        let missing = Toolchain::find(&machine.places()).expect_err("no linker");
        assert_eq!(missing, Missing::Linker { rustc });
        assert!(missing.to_string().contains("cargo xtask setup"));
    }

    #[test]
    fn debian_is_found() {
        let machine = Machine::new();
        let (rustc, linker) = (machine.with_debian(), machine.with_linker());
        let expected = Toolchain {
            rustc,
            cargo: None,
            linker,
            core: Core::Prebuilt,
        };
        assert_eq!(Toolchain::find(&machine.places()), Ok(expected));
    }

    #[test]
    fn debian_compiler_without_ebpf_core_does_not_count() {
        let machine = Machine::new();
        machine.with_linker();
        machine.rustc("usr/bin/rustc", "usr");
        assert_eq!(Toolchain::find(&machine.places()), Err(Missing::Compiler));
    }

    #[test]
    fn nightly_with_source_comes_before_debian() {
        let machine = Machine::new();
        machine.with_debian();
        machine.with_linker();
        machine.with_nightly("nightly-2026-01-01-x86_64-unknown-linux-gnu");
        let rustc = machine.with_nightly("nightly-x86_64-unknown-linux-gnu");
        let found = Toolchain::find(&machine.places()).expect("there are three");
        assert_eq!(found.rustc, rustc);
        assert_eq!(found.core, Core::FromSource);
        assert_eq!(found.cargo, Some(rustc.with_file_name("cargo")));
    }

    #[test]
    fn nightly_without_source_does_not_count() {
        let machine = Machine::new();
        let debian = machine.with_debian();
        machine.with_linker();
        machine.file("rustup/nightly-x86_64-unknown-linux-gnu/bin/rustc");
        let found = Toolchain::find(&machine.places()).expect("there is Debian's");
        assert_eq!(found.rustc, debian);
    }

    #[test]
    fn the_users_choice_comes_first() {
        let machine = Machine::new();
        machine.with_linker();
        machine.with_nightly("nightly-x86_64-unknown-linux-gnu");
        let debian = machine.with_debian();
        let places = Places {
            chosen: Some(debian.clone()),
            ..machine.places()
        };
        let found = Toolchain::find(&places).expect("the choice is good");
        assert_eq!((found.rustc, found.core), (debian, Core::Prebuilt));
    }

    #[test]
    fn a_compiler_that_does_not_run_is_told_from_one_that_fails() {
        let absent = sysroot(Path::new("/nonexistent/rustc")).expect_err("it does not exist");
        assert!(absent.contains("cannot run it"), "{absent}");
        let failing = sysroot(Path::new("/bin/false")).expect_err("it fails");
        assert!(failing.contains("exit status: 1"), "{failing}");
    }

    #[test]
    fn a_bad_choice_is_an_error_even_with_others_at_hand() {
        let machine = Machine::new();
        machine.with_linker();
        machine.with_debian();
        let bad = machine.rustc("other/rustc", "other");
        for (rustc, problem) in [
            (bad, "no core for bpfel-unknown-none"),
            (machine.0.join("absent"), "No such file"),
        ] {
            let places = Places {
                chosen: Some(rustc.clone()),
                ..machine.places()
            };
            let message = Toolchain::find(&places)
                .expect_err("the choice is bad")
                .to_string();
            assert!(message.contains(problem), "{message}");
            assert!(message.contains(&rustc.display().to_string()), "{message}");
        }
    }
}
