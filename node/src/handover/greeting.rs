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

use super::HandoverError;
use super::carrier::Carrier;

/// How long a server may take to greet: some look up their client's name before, or let it wait on purpose.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// More than this of what a server said is not told.
const TOLD: usize = 128;

/// Why a server's greeting is not the one that its client was given.
#[derive(Debug, Error)]
pub enum GreetingError {
    /// It is another one: from which byte on, and what stands there.
    #[error("the server's greeting is not the configured one: it has {1} from byte {0} on")]
    Differs(usize, Said),
    /// The server went on with its greeting when all of the configured one had been compared.
    #[error("the server's greeting is longer than the configured one")]
    GoesOn,
    /// The server closed or reset the connection in its greeting, or instead of it.
    #[error("the server closed the connection after {0} bytes of its greeting")]
    ClosedEarly(usize),
    /// The server closed the connection when it had greeted.
    #[error("the server closed the connection when it had greeted")]
    Closed,
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
pub(super) async fn compare(carrier: &mut Carrier<'_>, given: &[u8]) -> Result<(), HandoverError> {
    let mut said = Vec::with_capacity(given.len() + 1);
    let whole = timeout(PATIENCE, listen(carrier, given, &mut said)).await;
    let error = match whole {
        Ok(Ok(())) => match difference(given, said) {
            None => return Ok(()),
            Some(error) => error,
        },
        Ok(Err(e)) if is_end(&e) => GreetingError::ClosedEarly(said.len()),
        Ok(Err(e)) => return Err(HandoverError::Local(e)),
        Err(_) => GreetingError::Silent(PATIENCE, said.len()),
    };
    Err(HandoverError::Greeting(error))
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut
    )
}

/// Where what a server said differs from the greeting that was given.
fn difference(given: &[u8], mut said: Vec<u8>) -> Option<GreetingError> {
    let same = given.iter().zip(&said).take_while(|(a, b)| a == b).count();
    match said.len() > same {
        true if same == given.len() => Some(GreetingError::GoesOn),
        true => Some(GreetingError::Differs(same + 1, Said(said.split_off(same)))),
        false => None,
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

    #[test]
    fn a_difference_is_told_from_where_it_is() {
        let told = |said: &[u8]| {
            let error = difference(b"220 a\n", said.to_vec());
            error.map(|error| error.to_string())
        };
        assert_eq!(told(b"220 a\n"), None);
        assert!(
            told(b"220 b\n")
                .unwrap()
                .contains(r#"has "b\n" from byte 5 on"#)
        );
        assert!(
            told(b"421")
                .unwrap()
                .contains(r#"has "421" from byte 1 on"#)
        );
        assert!(told(b"220 a\nx").unwrap().contains("longer"));
    }
}
