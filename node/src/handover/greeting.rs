//! The greeting of a server that speaks first, compared with the one that its client was given (DTS §2.6).
//!
//! The client talks to the inspector when it is greeted, and so to nobody's server: the inspector gives the greeting that
//! the configuration has. When the connection is handed over, the server greets, too. Its filter sends that to the
//! inspecting node, by the handover connection, and it ends here. If it is what the client was given, the two connections
//! have the same bytes behind them, and the request can go on. If it is not, they never fit together.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;

use super::carrier::Carrier;

/// How long a server may take to greet: some look up their client's name before, or let it wait on purpose.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than this of what a server said is not told.
const TOLD: usize = 128;

/// Why a server's greeting is not the one that its client was given.
#[derive(Debug, Error)]
pub enum GreetingError {
    /// It is another one.
    #[error("the server's greeting is {0}, not the configured one")]
    Differs(Said),
    /// The server closed or reset the connection before it had greeted.
    #[error("the server closed the connection after {0} bytes of its greeting")]
    Closed(usize),
    /// The server said nothing, or not all of it.
    #[error("the server gave {1} bytes of its greeting within {0:?}")]
    Silent(Duration, usize),
}

/// The beginning of what a server said.
#[derive(Debug)]
pub struct Said(Vec<u8>);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.0.get(..TOLD).unwrap_or(&self.0);
        write!(f, "\"{}\"", told.escape_ascii())?;
        match self.0.len() > told.len() {
            true => f.write_str("..."),
            false => Ok(()),
        }
    }
}

/// Takes the server's greeting off the handover connection; fine if it is `given`.
pub(super) async fn compare(carrier: &mut Carrier<'_>, given: &[u8]) -> Result<(), GreetingError> {
    let mut said = Vec::with_capacity(given.len() + 1);
    let whole = timeout(PATIENCE, listen(carrier, given, &mut said)).await;
    match whole {
        Ok(Ok(())) if said == given => Ok(()),
        Ok(Ok(())) => Err(GreetingError::Differs(Said(said))),
        Ok(Err(_)) => Err(GreetingError::Closed(said.len())),
        Err(_) => Err(GreetingError::Silent(PATIENCE, said.len())),
    }
}

/// Reads until `said` is as long as `given`, or something else.
async fn listen(carrier: &mut Carrier<'_>, given: &[u8], said: &mut Vec<u8>) -> io::Result<()> {
    while given.starts_with(said) && said.len() < given.len() {
        // One byte more would show a greeting that goes on.
        let next = carrier.read(given.len() + 1 - said.len()).await?;
        if next.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        said.extend(next);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_said_is_told_on_one_line() {
        let said = |bytes: &[u8]| Said(bytes.to_vec()).to_string();
        assert_eq!(said(b"220 hi\r\n"), r#""220 hi\r\n""#);
        assert_eq!(said(b"\x1b[2J\xff"), r#""\x1b[2J\xff""#);
        let long = said(&[b'x'; 1000]);
        assert_eq!(long.len(), TOLD + 2 + 3);
        assert!(long.ends_with("x\"..."));
    }
}
