//! Services whose requests are not read: `protocol = { bytes = N }`.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use crate::client::{PATIENCE, Response, connect, get, head};
use crate::cluster::{Cluster, Method, WEB, vip, wait_for};

crate::cases![requests_that_are_not_read];

/// Connections go to the default target after so many bytes, whatever these are; where connections are adopted, the filter
/// decides by itself, except about bytes that come one by one.
fn requests_that_are_not_read(method: &'static Method) {
    let cluster = Cluster::with(method, 2, |spec| {
        spec.cluster.services_toml = Some(format!(
            "[[service]]\nname = \"web\"\nvip = \"{}\"\nport = 80\nmode = \"l7\"\n\
             handover = \"{}\"\ninspector_port = 8081\nprotocol = {{ bytes = 4 }}\n\
             default = {{ nodes = [\"n2\"] }}\n",
            vip(WEB).ip(),
            method.handover
        ));
    });
    // The daemons' own decisions. (They are asked about a target, too, that is slow to answer.)
    let decided = || {
        cluster.sum(|node| {
            let counters = cluster.stats(node).inspector;
            counters.get("adoptions.sent_on").copied().unwrap_or(0)
        })
    };
    for node in [1, 2] {
        // At first the nodes don't know each other's link addresses, and the daemon decides.
        wait_for("the filter to decide", PATIENCE, || {
            let before = decided();
            let port = cluster.port_inspected_by(node);
            let response = get(&cluster, Some(port), WEB, "/n1/x").unwrap();
            assert_eq!(response.node.as_deref(), Some("n2"));
            decided() == before
        });
    }
    let before = decided();
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    let text = head("GET", "/whoami", None);
    for part in [&text.as_bytes()[..2], &text.as_bytes()[2..]] {
        stream.write_all(part).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let response = Response::read_and_close(stream).unwrap();
    assert_eq!(response.text(), "n2\n");
    if method.adopts() {
        assert_eq!(decided(), before + 1);
    }
}
