//! Whether a service's server is there.

use std::net::IpAddr;
use std::path::Path;

/// Whether something listens where the service's server should, as `/proc` tells.
pub(super) fn listens(vip: IpAddr, port: u16) -> bool {
    let local = |address: &[u8]| {
        // Words of the machine's byte order.
        let words = address.chunks_exact(4).map(|word| {
            let word = word.try_into().expect("four bytes");
            format!("{:08X}", u32::from_ne_bytes(word))
        });
        format!("{}:{port:04X}", words.collect::<String>())
    };
    let (any, any6) = (local(&[0; 4]), local(&[0; 16]));
    let (tcp, tcp6) = match vip {
        IpAddr::V4(vip) => (vec![local(&vip.octets()), any], vec![any6]),
        IpAddr::V6(vip) => (vec![], vec![local(&vip.octets()), any6]),
    };
    let table = |path| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    [
        ("/proc/thread-self/net/tcp", tcp),
        ("/proc/thread-self/net/tcp6", tcp6),
    ]
    .iter()
    .any(|(path, locals)| {
        table(path).lines().skip(1).any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let local = fields.next();
            // 0A is TCP_LISTEN.
            local.is_some_and(|l| locals.iter().any(|x| x == l)) && fields.nth(1) == Some("0A")
        })
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_either_family_is_seen() {
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let listener = TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(listens(address, port), "{address}");
            let other = match address {
                IpAddr::V4(_) => "::2",
                IpAddr::V6(_) => "127.0.0.2",
            };
            assert!(!listens(other.parse().unwrap(), port), "{address}");
            drop(listener);
            assert!(!listens(address, port), "{address}");
        }
        // A listener on all IPv6 addresses takes IPv4 connections, too; one on all IPv4 addresses no others.
        for (any, v4, v6) in [("[::]:0", true, true), ("0.0.0.0:0", true, false)] {
            let listener = TcpListener::bind(any).unwrap();
            let port = listener.local_addr().unwrap().port();
            let seen = ["198.18.0.100", "2001:db8::100"].map(|a| listens(a.parse().unwrap(), port));
            assert_eq!(seen, [v4, v6], "{any}");
        }
    }
}
