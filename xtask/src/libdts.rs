//! libdts, the library for inspectors in C: its header, and its installation.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::{cargo, phases::run, target_dir};

/// The version of the workspace, and so of the library.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What programs ask the loader for: changes with the interface. `capi/build.rs` puts it into the library.
const SONAME: &str = "libdts.so.0";

/// Makes the header anew.
pub(crate) fn write_header(root: &Path) -> anyhow::Result<()> {
    let path = header_path(root);
    fs::write(&path, header(root)?).with_context(|| format!("cannot write {}", path.display()))
}

/// Fails when the header isn't the one that the source makes.
pub(crate) fn check_header(root: &Path) -> anyhow::Result<()> {
    let path = header_path(root);
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        checked_in == header(root)?,
        "{} is out of date: run `cargo xtask header`, and commit it",
        path.display()
    );
    Ok(())
}

fn header_path(root: &Path) -> PathBuf {
    root.join("capi/dts.h")
}

fn header(root: &Path) -> anyhow::Result<String> {
    let directory = root.join("capi");
    let settings = cbindgen::Config::from_file(directory.join("cbindgen.toml"))
        .map_err(|error| anyhow::anyhow!("capi/cbindgen.toml: {error}"))?;
    let bindings = cbindgen::Builder::new()
        .with_config(settings)
        .with_src(directory.join("src/lib.rs"))
        .generate()
        .context("cannot make the header of libdts")?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).context("the header is no text")?;
    // To a C programmer, what Rust calls safety is the description of an argument.
    Ok(text.replace(" # Safety\n\n", ""))
}

/// Builds the library and installs it, its header, its manual page and what pkg-config wants to know.
pub(crate) fn install(
    root: &Path,
    prefix: &Path,
    destdir: Option<&Path>,
    debug: bool,
) -> anyhow::Result<()> {
    ensure!(
        prefix.is_absolute(),
        "--prefix {}: write a path that starts with `/`",
        prefix.display()
    );
    let mut build = cargo(root);
    build.args(["build", "--locked", "--package", "dts-capi"]);
    if !debug {
        build.arg("--release");
    }
    run(&mut build)?;
    let built = root
        .join(target_dir(root))
        .join(if debug { "debug" } else { "release" });
    let to = match destdir {
        Some(destdir) => destdir.join(prefix.strip_prefix("/").unwrap_or(prefix)),
        None => prefix.to_owned(),
    };
    let capi = root.join("capi");
    let library = format!("libdts.so.{VERSION}");
    let files = [
        (capi.join("dts.h"), "include/dts.h", 0o644),
        (built.join("libdts.so"), &*format!("lib/{library}"), 0o755),
        (built.join("libdts.a"), "lib/libdts.a", 0o644),
        (capi.join("libdts.3"), "share/man/man3/libdts.3", 0o644),
        (
            capi.join("examples/fig3.c"),
            "share/doc/libdts/examples/fig3.c",
            0o644,
        ),
    ];
    for (from, name, mode) in files {
        put(&to.join(name), mode, |path| fs::copy(&from, path).map(drop))
            .with_context(|| format!("cannot install {}", from.display()))?;
    }
    for (link, target) in [(SONAME, &*library), ("libdts.so", SONAME)] {
        let link = to.join("lib").join(link);
        let _ = fs::remove_file(&link);
        symlink(target, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    let description = pkg_config(prefix);
    put(&to.join("lib/pkgconfig/dts.pc"), 0o644, |path| {
        fs::write(path, &description)
    })
    .context("cannot install dts.pc")?;
    println!("libdts {VERSION} is below {}", to.display());
    Ok(())
}

/// Makes a file, and the directories that it takes.
fn put(
    path: &Path,
    mode: u32,
    make: impl FnOnce(&Path) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let directory = path.parent().context("a file is in a directory")?;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    // A library that a program has in memory must not be written over.
    let _ = fs::remove_file(path);
    make(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn pkg_config(prefix: &Path) -> String {
    format!(
        "prefix={}\n\
         libdir=${{prefix}}/lib\n\
         includedir=${{prefix}}/include\n\n\
         Name: dts\n\
         Description: for programs that decide which node of a DTS cluster gets a connection\n\
         Version: {VERSION}\n\
         Libs: -L${{libdir}} -ldts\n\
         Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl\n\
         Cflags: -I${{includedir}}\n",
        prefix.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_up_to_date() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        check_header(&root).unwrap();
    }

    #[test]
    fn the_librarys_name_is_the_one_that_is_linked_to() {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../capi/build.rs");
        let build = fs::read_to_string(build).unwrap();
        assert!(build.contains(&format!("-soname,{SONAME}\"")));
    }
}
