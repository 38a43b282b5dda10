//! An inspector that sends each request to the node that its URI belongs to, with several threads: clients that are slow to
//! send their requests don't keep others waiting.
//!
//! ```text
//! by_uri web 4
//! ```

use std::error::Error;
use std::thread;

use dts_inspector::{Connection, Inspector, Target};

/// The path and query of a request; `None` while its first line isn't complete.
fn uri(request: &[u8]) -> Option<&[u8]> {
    let end = request.iter().position(|byte| *byte == b'\n')?;
    request[..end].split(|byte| *byte == b' ').nth(1)
}

fn decide(web: &Inspector, connection: &Connection) -> Result<(), dts_inspector::Error> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(key) = uri(&request) {
            let cluster = web.cluster();
            let member = cluster.ring_lookup(key);
            let target = member.map_or(Target::Local, |member| Target::Node(&member.name));
            return connection.request_handover(target, &request);
        }
        match connection.receive(&mut buffer)? {
            // No request: the service's `on_undecided` says what happens.
            0 => return connection.leave(),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [service, threads] = &arguments[..] else {
        return Err("usage: by_uri SERVICE THREADS".into());
    };
    let threads: usize = threads.parse()?;
    let web = Inspector::attach(service)?;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Ok(connection) = web.accept() {
                    if let Err(error) = decide(&web, &connection) {
                        eprintln!("{}: {error}", connection.client());
                    }
                }
            });
        }
    });
    Err("the daemon has gone".into())
}
