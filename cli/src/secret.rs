//! `dts secret`.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::bail;
use dts_node::config::{Secret, SecretError};

/// Makes a secret; writes it to a new file, or to standard output.
pub(crate) fn run(out: Option<&Path>) -> anyhow::Result<()> {
    let secret = Secret::generate()?;
    match out {
        None => writeln!(io::stdout(), "{}", secret.to_hex())?,
        Some(path) => match secret.save_new(path) {
            Err(SecretError::Unwritable { path, source })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                bail!(
                    "{}: there is such a file, and a cluster may depend on it: remove it first, or \
                     name another one",
                    path.display()
                )
            }
            saved => saved?,
        },
    }
    Ok(())
}
