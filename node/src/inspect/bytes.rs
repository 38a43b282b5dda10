//! The inspector of services whose requests are not read: it waits for a number of bytes, and hands connections to the
//! default target (DTS §4.2). It carries every protocol in which the client speaks first, or after a
//! greeting.

use super::{ConnectionInfo, Decision, Destination, Inspector, TargetChoice};
use crate::config::Target;

/// Waits for bytes and looks at none of them.
#[derive(Debug)]
pub struct BytesInspector {
    bytes: usize,
    target: TargetChoice,
}

impl BytesInspector {
    /// Hands over to `target` after `bytes` bytes. There is nothing that a target could be chosen by: that is as good
    /// as `"local"`, and no configuration says it.
    #[must_use]
    pub fn new(bytes: u16, target: &Target) -> Self {
        Self {
            bytes: bytes.into(),
            target: Destination::from(target).without_key(),
        }
    }
}

impl Inspector for BytesInspector {
    fn inspect(&self, _: &ConnectionInfo, request: &[u8]) -> Decision {
        if request.len() < self.bytes {
            return Decision::NeedMore;
        }
        Decision::Handover(self.target.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::config::NodeId;

    #[test]
    fn bytes_are_counted_and_nothing_else() {
        let end = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let info = ConnectionInfo {
            remote: end,
            local: end,
        };
        let nodes = Target::Nodes(["a", "b"].map(NodeId::unchecked).to_vec());
        let inspector = BytesInspector::new(4, &nodes);
        assert_eq!(inspector.inspect(&info, b""), Decision::NeedMore);
        assert_eq!(inspector.inspect(&info, b"\0\r\n"), Decision::NeedMore);
        for enough in [&b"abcd"[..], &[255; 100]] {
            let decision = inspector.inspect(&info, enough);
            assert!(matches!(
                decision,
                Decision::Handover(TargetChoice::Nodes(_))
            ));
        }
    }
}
