//! A node with an inspector of its own (DTS §2.1, Fig. 3, §4.2): it waits for a number of bytes, looks
//! at none of them, and hands connections to the members in turn.
//!
//! ```text
//! round_robin /etc/dts/dts.toml web 4
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use dts_node::config::{Config, NodeId};
use dts_node::daemon::{self, Options};
use dts_node::inspect::{ConnectionInfo, Decision, Inspector, NodeSet, TargetChoice};

/// Hands over after `bytes` bytes.
struct RoundRobin {
    bytes: usize,
    members: Arc<NodeSet>,
}

impl Inspector for RoundRobin {
    fn inspect(&self, _: &ConnectionInfo, request: &[u8]) -> Decision {
        if request.len() < self.bytes {
            return Decision::NeedMore;
        }
        Decision::Handover(TargetChoice::Nodes(Arc::clone(&self.members)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, service, bytes] = &arguments[..] else {
        return Err("usage: round_robin CONFIG SERVICE BYTES".into());
    };
    let path = PathBuf::from(config);
    let (parsed, _) = Config::load(&path)?;
    let members: Vec<NodeId> = parsed
        .members
        .iter()
        .map(|member| member.id.clone())
        .collect();
    let inspector = RoundRobin {
        bytes: bytes.parse()?,
        members: Arc::new(NodeSet::new(members)),
    };
    let mut options = Options::default();
    options
        .inspectors
        .insert(service.clone(), Arc::new(inspector));
    daemon::run(path, options).await?;
    Ok(())
}
