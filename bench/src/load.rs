//! Load on two nodes, through the VIP or directly.

use anyhow::{bail, ensure};
use clap::Args;
use dts_lab::{FileSet, Lab, Place, VIP};

use crate::run::Pair;

pub(crate) const NODES: u8 = 2;
const BULK: u64 = 100_000_000;
/// How often the sides take turns for one figure of bulk.
const TURNS: u32 = 4;
/// How often each node's large file is downloaded in each turn.
const DOWNLOADS: usize = 3;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often all sides are measured.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Connections that the load keeps busy, in all.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: u32,
}

impl Options {
    /// How many pairs there are to be, and how many seconds each measurement takes.
    pub(crate) fn extent(&self, quick: bool) -> anyhow::Result<(usize, u32)> {
        let (pairs, seconds) = if quick {
            (3, 2)
        } else {
            (self.pairs, self.seconds)
        };
        ensure!(
            pairs >= 1 && seconds >= 1,
            "at least one pair of at least a second"
        );
        Ok((pairs, seconds))
    }
}

/// Gives each node its files, and returns the nodes.
pub(crate) fn publish(lab: &Lab) -> anyhow::Result<Vec<Place>> {
    let places: Vec<Place> = (1..=NODES).map(Place::Node).collect();
    for place in &places {
        let mut files = FileSet::new(1);
        files.add(format!("{place}/1k"), 1024)?;
        files.add(format!("{place}/bulk"), BULK)?;
        lab.publish(&[*place], &files)?;
    }
    Ok(places)
}

pub(crate) fn shared_address(_: Place) -> String {
    VIP.to_string()
}

pub(crate) fn own_address(place: Place) -> String {
    place
        .address(dts_lab::Network::Front)
        .map_or_else(String::new, |a| a.to_string())
}

/// Requests per second of one load generator per node, each with new connections only.
pub(crate) fn new_connections(
    lab: &Lab,
    seconds: u32,
    connections: u32,
    server: impl Fn(Place) -> String,
) -> anyhow::Result<f64> {
    let loads: Vec<String> = (1..=NODES)
        .map(Place::Node)
        .map(|place| {
            let each = connections / u32::from(NODES);
            format!(
                "wrk -t1 -c{each} -d{seconds} -H 'Connection: close' http://{}/{place}/1k",
                server(place)
            )
        })
        .collect();
    together(lab, &loads)
}

/// Requests per second of load generators that run at the same time, from the client.
pub(crate) fn together(lab: &Lab, loads: &[String]) -> anyhow::Result<f64> {
    let text = lab.sh(Place::Client(1), &format!("{} & wait", loads.join(" & ")))?;
    let trouble = text
        .lines()
        .find(|l| l.contains("Socket errors") || l.contains("Non-2xx"));
    if let Some(trouble) = trouble {
        bail!("the load met trouble: {}\n{text}", trouble.trim());
    }
    let rates: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())
        .collect();
    ensure!(
        rates.len() == loads.len(),
        "cannot read wrk's output:\n{text}"
    );
    Ok(rates.iter().sum())
}

/// Which downloads run at the same time.
#[derive(Clone, Copy)]
pub(crate) enum Streams {
    /// One from each node: what the machine can carry.
    Together,
    /// Only one: what one client sees.
    Alone,
}

/// MB/s of 100 MB downloads: through the VIP, and beside it directly.
///
/// A download takes a few dozen milliseconds, in which such a machine may do anything. So both sides take turns,
/// and their times are added up.
pub(crate) fn bulk(lab: &Lab, places: &[Place], streams: Streams) -> anyhow::Result<Pair> {
    let groups: Vec<&[Place]> = match streams {
        Streams::Together => vec![places],
        Streams::Alone => places.chunks(1).collect(),
    };
    let (mut ours, mut partner) = (0.0, 0.0);
    for _ in 0..TURNS {
        for group in &groups {
            ours += seconds_per_megabyte(lab, group, shared_address)?;
            partner += seconds_per_megabyte(lab, group, own_address)?;
        }
    }
    let turns = f64::from(TURNS) * groups.len() as f64;
    Ok(Pair {
        ours: turns / ours,
        partner: turns / partner,
    })
}

/// MB/s of 100 MB downloads from all nodes at once, directly.
pub(crate) fn bulk_directly(lab: &Lab, places: &[Place]) -> anyhow::Result<f64> {
    let mut seconds = 0.0;
    for _ in 0..TURNS {
        seconds += seconds_per_megabyte(lab, places, own_address)?;
    }
    Ok(f64::from(TURNS) / seconds)
}

/// Downloads some nodes' large files a few times, one node's beside the other's. Seconds for each MB that came.
fn seconds_per_megabyte(
    lab: &Lab,
    places: &[Place],
    server: impl Fn(Place) -> String,
) -> anyhow::Result<f64> {
    let curls: Vec<String> = places
        .iter()
        .map(|place| {
            let url = format!("http://{}/{place}/bulk", server(*place));
            let transfers = format!("-o /dev/null {url} ").repeat(DOWNLOADS);
            // Each on a connection of its own, as the first one.
            format!(
                "curl -sf -H 'Connection: close' \
                 -w '{place} %{{time_total}} %{{size_download}}\n' {transfers} &"
            )
        })
        .collect();
    let text = lab.sh(Place::Client(1), &format!("{} wait", curls.join(" ")))?;
    let mut longest: f64 = 0.0;
    for place in places {
        let name = place.to_string();
        let mut time = 0.0;
        let mut count = 0;
        for line in text.lines() {
            let mut fields = line.split(' ');
            if fields.next() != Some(&name) {
                continue;
            }
            let (Some(Ok(seconds)), Some(Ok(size))) = (
                fields.next().map(str::parse::<f64>),
                fields.next().map(str::parse::<u64>),
            ) else {
                bail!("cannot read curl's output:\n{text}");
            };
            ensure!(size == BULK, "only {size} bytes came");
            time += seconds;
            count += 1;
        }
        ensure!(
            count == DOWNLOADS,
            "{count} of {DOWNLOADS} downloads from {place} succeeded:\n{text}"
        );
        // They begin together, so what is left to the slowest counts as it is.
        longest = longest.max(time);
    }
    let megabytes = (places.len() * DOWNLOADS) as f64 * BULK as f64 / 1e6;
    Ok(longest / megabytes)
}
