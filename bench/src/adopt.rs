//! Adoption beside direct connections and HAProxy, on two nodes.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dts_lab::{ClusterSpec, Lab, LabGuard, LabSpec, Network, Place};

use crate::copies;
use crate::load::{
    NODES, Options, Streams, bulk, new_connections, own_address, publish, shared_address, together,
};
use crate::progress::Progress;
use crate::run::{Comparison, Pair, Report, Run, tables};
use crate::small::{drop_cost, first_byte};

/// Where HAProxy runs: a machine of its own in the clients' network.
const PROXY: Place = Place::Client(2);
const PROXY_PORT: u16 = 8080;

/// A request for a path of each node in turn.
const ALTERNATING: &str = r#"
local turn = 0
request = function()
  turn = turn + 1
  return wrk.format("GET", "/n" .. (1 + turn % 2) .. "/1k")
end
"#;

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let (pairs, seconds) = options.extent(run.quick)?;
    let mut report = Report::new("adopt");
    let progress = Progress::new("adopt", pairs);
    progress.begin("building the lab");
    let mut spec = LabSpec::new("bench", NODES, &run.dts);
    spec.cluster.services_toml = Some(ClusterSpec::services(NODES, "adopt"));
    spec.clients = 2;
    let lab = LabGuard::up(spec)?;
    let places = publish(&lab)?;
    let _proxy = start_proxy(&lab)?;
    let script = lab.place_dir(Place::Client(1)).join("alternating.lua");
    fs::write(&script, ALTERNATING)?;
    // As many load generators as on the other side.
    let alternating: Vec<String> = places
        .iter()
        .map(|_| {
            format!(
                "wrk -t1 -c{} -d{seconds} -s {} http://{}/",
                options.connections / u32::from(NODES),
                script.display(),
                dts_lab::VIP
            )
        })
        .collect();
    let persistent = |server: &dyn Fn(Place) -> String| -> Vec<String> {
        let each = options.connections / u32::from(NODES);
        places
            .iter()
            .map(|place| {
                format!(
                    "wrk -t1 -c{each} -d{seconds} http://{}/{place}/1k",
                    server(*place)
                )
            })
            .collect()
    };
    let comparison = |name: &str, unit| Comparison::new(name, unit);
    let mut results = [
        comparison("new connections, 1 KB, beside direct", "conn/s"),
        comparison("new connections, 1 KB, beside HAProxy", "conn/s"),
        comparison("persistent, one node each, beside direct", "req/s"),
        comparison("persistent, alternating nodes, beside direct", "req/s"),
        comparison("bulk, 100 MB from each node at once, beside direct", "MB/s"),
        comparison("first byte of a handed-over request, beside direct", "us"),
        comparison(
            "dropping another node's packet, beside an empty program",
            "ns",
        ),
        comparison("copies alone: new connections, beside none", "conn/s"),
        comparison("copies alone: persistent, beside none", "req/s"),
        comparison("copies alone: bulk, beside none", "MB/s"),
    ];
    for number in 0..pairs {
        progress.begin(format!("round {} of {pairs}", number + 1));
        let connections = options.connections;
        let new =
            |server: &dyn Fn(Place) -> String| new_connections(&lab, seconds, connections, server);
        let ours = new(&shared_address).context("through the VIP")?;
        let direct = new(&own_address).context("directly")?;
        let proxied = new(&proxy_address).context("through HAProxy")?;
        results[0].pairs.push(Pair {
            ours,
            partner: direct,
        });
        results[1].pairs.push(Pair {
            ours,
            partner: proxied,
        });
        let ours = together(&lab, &persistent(&shared_address))?;
        let direct = together(&lab, &persistent(&own_address))?;
        results[2].pairs.push(Pair {
            ours,
            partner: direct,
        });
        let ours = together(&lab, &alternating)?;
        results[3].pairs.push(Pair {
            ours,
            partner: direct,
        });
        results[4]
            .pairs
            .push(bulk(&lab, &places, Streams::Together)?);
        results[5].pairs.push(first_byte(&lab)?);
        results[6].pairs.push(drop_cost(&lab.spec().name)?);
        let alone = copies::alone(
            &lab,
            &places,
            || new(&own_address),
            || together(&lab, &persistent(&own_address)),
        )?;
        for (result, pair) in results[7..].iter_mut().zip(alone) {
            result.pairs.push(pair);
        }
        progress.done();
    }
    drop(progress);
    report.packages(&["nginx-light", "haproxy", "wrk", "curl"]);
    let (summary, raw) = tables(&results);
    report.file("raw.csv", raw);
    report.summary(&summary);
    report.finish(run)
}

fn proxy_address(_: Place) -> String {
    let address = PROXY.address(Network::Front);
    address.map_or_else(String::new, |a| format!("{a}:{PROXY_PORT}"))
}

/// Starts HAProxy, which chooses the server by the path. It ends with the lab.
fn start_proxy(lab: &Lab) -> anyhow::Result<dts_lab::LabProcess> {
    let mut config = format!(
        "global\n  maxconn 4000\n  nbthread 2\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  \
         timeout server 30s\nfrontend web\n  bind :{PROXY_PORT}\n"
    );
    let mut backends = String::new();
    for place in (1..=NODES).map(Place::Node) {
        config += &format!("  use_backend {place} if {{ path_beg /{place}/ }}\n");
        backends += &format!(
            "backend {place}\n  server {place} {}:80\n",
            own_address(place)
        );
    }
    let path = lab.place_dir(PROXY).join("haproxy.cfg");
    fs::write(&path, config + &backends)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-f").arg(&path);
    let process = lab.spawn(PROXY, &command)?;
    let until = Instant::now() + Duration::from_secs(5);
    while lab
        .sh(PROXY, &format!("ss -Htln sport = :{PROXY_PORT}"))?
        .is_empty()
    {
        ensure!(Instant::now() < until, "HAProxy does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}
