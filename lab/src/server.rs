//! The lab's web server: one unmodified nginx per node.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::place::Place;

/// The name under which nginx runs in its place.
const TAG: &str = "nginx";

/// A line of a node's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogEntry {
    /// The client, as the server sees it.
    pub remote: SocketAddr,
    /// The response's status.
    pub status: u16,
    /// Bytes of the response's body.
    pub body_bytes: u64,
    /// Which request of its connection it was, from 1.
    pub request_of_connection: u64,
    /// The request's method and URI, as `GET /n1/file`.
    pub request: String,
}

impl Lab {
    /// The directory that a node's server serves.
    pub fn docroot(&self, place: Place) -> PathBuf {
        self.place_dir(place).join("www")
    }

    /// What a node's server has served so far, oldest first. An entry is written a little later
    /// than its response.
    pub fn access_log(&self, place: Place) -> Result<Vec<AccessLogEntry>> {
        let path = self.place_dir(place).join("access.log");
        let log = match fs::read_to_string(&path) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(LabError::io("cannot read", &path)(error)),
        };
        // A line without its end is still being written.
        let complete = log.rfind('\n').map_or("", |end| &log[..end]);
        complete
            .lines()
            .map(|line| {
                AccessLogEntry::parse(line).ok_or_else(|| LabError::Malformed {
                    path: path.clone(),
                    message: format!("not a line of the lab's log format: {line}"),
                })
            })
            .collect()
    }

    /// Starts nginx in a place and waits until it accepts connections.
    pub(crate) fn start_nginx(&self, place: Place) -> Result<()> {
        let dir = self.place_dir(place);
        let docroot = self.docroot(place);
        for dir in [&docroot, &dir.join("tmp")] {
            fs::create_dir_all(dir).map_err(LabError::io("cannot make directory", dir))?;
        }
        let path = dir.join("nginx.conf");
        fs::write(&path, self.nginx_conf(place)).map_err(LabError::io("cannot write", &path))?;
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(&path)
            .arg("-e")
            .arg(dir.join("error.log"));
        let process = self.spawn_tagged(place, TAG, &command)?;
        self.wait_ready(
            &format!("nginx of {place}"),
            &process,
            Duration::from_secs(10),
            || {
                let address = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80));
                let connect =
                    || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
                self.within(place, connect).unwrap_or(false)
            },
        )
    }

    fn nginx_conf(&self, place: Place) -> String {
        let dir = self.place_dir(place);
        let dir = dir.display();
        // More than the limit cannot be raised everywhere (CAP_SYS_RESOURCE may be missing).
        let files = getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(20_000)
            .min(20_000);
        let connections = files.saturating_sub(256).max(256);
        let keepalive = match self.spec().keepalive {
            true => "keepalive_timeout 75s; keepalive_requests 1000000000;",
            false => "keepalive_timeout 0;",
        };
        let ipv6 = if self.spec().ipv6 {
            "listen [::]:80 backlog=4096;"
        } else {
            ""
        };
        format!(
            r#"daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile {files};
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
    types {{ text/html html; text/plain txt; }}
    default_type application/octet-stream;
    log_format lab "$remote_addr\t$remote_port\t$status\t$body_bytes_sent\t$connection_requests\t$request_method $request_uri";
    access_log {dir}/access.log lab;
    client_body_temp_path {dir}/tmp/body;
    proxy_temp_path {dir}/tmp/proxy;
    fastcgi_temp_path {dir}/tmp/fastcgi;
    uwsgi_temp_path {dir}/tmp/uwsgi;
    scgi_temp_path {dir}/tmp/scgi;
    client_max_body_size 0;
    sendfile on;
    tcp_nopush on;
    {keepalive}
    server {{
        listen 0.0.0.0:80 backlog=4096;
        {ipv6}
        root {dir}/www;
        add_header X-DTS-Node {place} always;
        location = /whoami {{ default_type text/plain; return 200 "{place}\n"; }}
    }}
}}
"#
        )
    }
}

impl AccessLogEntry {
    /// Reads a line of the format that [`Lab::nginx_conf`] sets.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, '\t');
        let mut next = || fields.next();
        Some(Self {
            remote: SocketAddr::new(next()?.parse().ok()?, next()?.parse().ok()?),
            status: next()?.parse().ok()?,
            body_bytes: next()?.parse().ok()?,
            request_of_connection: next()?.parse().ok()?,
            request: next()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_log_lines_are_read() {
        let entry = AccessLogEntry::parse("198.18.0.201\t40000\t200\t3\t1\tGET /n1/a b").unwrap();
        assert_eq!(entry.remote, "198.18.0.201:40000".parse().unwrap());
        assert_eq!(
            (entry.status, entry.body_bytes, entry.request_of_connection),
            (200, 3, 1)
        );
        assert_eq!(entry.request, "GET /n1/a b");
        assert_eq!(AccessLogEntry::parse("garbage"), None);
    }
}
