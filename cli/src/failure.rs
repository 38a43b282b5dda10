//! How failures are shown, and what the shell sees of them.

use std::io;
use std::process::ExitCode;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use dts_node::admin::ClientError;
use dts_node::config::ConfigError;
use dts_node::daemon::DaemonError;

const ERROR: Style = AnsiColor::Red.on_default().bold();

/// No daemon answers.
const NOT_RUNNING: u8 = 3;

/// Prints why a command failed. The exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let io_error = error.downcast_ref::<io::Error>();
    if io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // Who reads our output has seen enough, as `head` does.
        return ExitCode::SUCCESS;
    }
    match config_error(error) {
        // Each finding says by itself where and what it is.
        Some(invalid @ ConfigError::Invalid { .. }) => {
            eprintln!("{invalid}");
            if error.to_string() != invalid.to_string() {
                eprintln!("{ERROR}error{ERROR:#}: {error}");
            }
        }
        _ => eprintln!("{ERROR}error{ERROR:#}: {}", chain(error)),
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::NotRunning { .. }) => ExitCode::from(NOT_RUNNING),
        _ => ExitCode::FAILURE,
    }
}

fn config_error(error: &anyhow::Error) -> Option<&ConfigError> {
    match error.downcast_ref::<DaemonError>() {
        Some(DaemonError::Config(error)) => Some(error),
        _ => error.downcast_ref::<ConfigError>(),
    }
}

/// The error and its causes. Many errors quote their cause, which is then not repeated.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_are_shown_once() {
        let error = Err::<(), _>(io::Error::other("disk on fire"))
            .context("cannot write x: disk on fire")
            .context("cannot save")
            .unwrap_err();
        assert_eq!(chain(&error), "cannot save: cannot write x: disk on fire");
    }
}
