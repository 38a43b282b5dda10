//! libdts as it is installed, and C programs built with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use dts_lab::{LabProcess, Place};
use tempfile::TempDir;

use super::counted;
use crate::client::PATIENCE;
use crate::cluster::{Cluster, wait_for};

/// libdts as `cargo xtask install-libdts` leaves it, and programs built with it.
pub(super) struct Library {
    prefix: TempDir,
}

impl Library {
    pub(super) fn installed() -> &'static Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let prefix = tempfile::tempdir().unwrap();
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            run(Command::new(cargo)
                .current_dir(&root)
                .args(["run", "--quiet", "--locked", "--package", "xtask", "--"])
                .args(["install-libdts", "--debug", "--prefix"])
                .arg(prefix.path()));
            let library = Self { prefix };
            let example = library.path("share/doc/libdts/examples/fig3.c");
            library.compile(&example, "fig3");
            let calls = Path::new(env!("CARGO_MANIFEST_DIR"));
            library.compile(&calls.join("tests/handover/inspectors/calls.c"), "calls");
            library.compile_statically(&example, "fig3-static");
            assert!(library.path("share/man/man3/libdts.3").is_file());
            library
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.prefix.path().join(name)
    }

    fn pkg_config(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("pkg-config");
        command
            .env("PKG_CONFIG_PATH", self.path("lib/pkgconfig"))
            .args(arguments)
            .arg("dts");
        run(&mut command)
    }

    /// Compiles a program with the system's compiler, as the example's head says.
    fn compile(&self, source: &Path, program: &str) {
        let flags = self.pkg_config(&["--cflags", "--libs"]);
        run(Command::new("cc")
            .args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O1"])
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic"])
            .arg(source)
            .args(flags.split_whitespace())
            .arg("-o")
            .arg(self.path(program)));
    }

    /// The same with the library within the program.
    fn compile_statically(&self, source: &Path, program: &str) {
        let flags = self.pkg_config(&["--cflags", "--libs", "--static"]);
        let archive = self.path("lib/libdts.a");
        let flags = flags.replace("-ldts", archive.to_str().unwrap());
        run(Command::new("cc")
            .arg(source)
            .args(flags.split_whitespace())
            .arg("-o")
            .arg(self.path(program)));
    }

    /// Starts the paper's program on a node, and waits until it is attached.
    pub(super) fn start(&self, cluster: &Cluster, node: u8) -> LabProcess {
        self.start_program(cluster, node, "fig3", &["web"])
    }

    /// The same of any program.
    pub(super) fn start_program(
        &self,
        cluster: &Cluster,
        node: u8,
        program: &str,
        arguments: &[&str],
    ) -> LabProcess {
        let place = Place::Node(node);
        let before = counted(cluster, node, "attached");
        let mut command = Command::new(self.path(program));
        command
            .args(arguments)
            .env("LD_LIBRARY_PATH", self.path("lib"))
            .env("DTS_RUN_DIR", cluster.place_dir(place));
        let process = cluster.spawn(place, &command).unwrap();
        wait_for("the program is attached", PATIENCE, || {
            assert!(process.is_alive(), "{}", log(&process));
            counted(cluster, node, "attached") > before
        });
        process
    }
}

/// What a program has said.
pub(super) fn log(process: &LabProcess) -> String {
    fs::read_to_string(process.log_path()).unwrap_or_default()
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
