//! Percentiles of latencies: of each round, and of all rounds' histograms together.

use std::fmt::Write as _;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use super::{Case, Round};
use crate::peers::Side;
use crate::plot;
use crate::run::extremes;

const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// What was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    /// From when the request was due to the answer's last byte, so with the connection's handshake.
    Whole,
    /// From when the request was sent to the answer's first byte.
    FirstByte,
}

impl Quantity {
    pub(super) const ALL: [Quantity; 2] = [Quantity::FirstByte, Quantity::Whole];

    fn name(self) -> &'static str {
        match self {
            Quantity::Whole => "From when it was due to the whole answer",
            Quantity::FirstByte => "From the request to the first byte",
        }
    }

    fn of(self, round: &Round) -> &Histogram<u64> {
        match self {
            Quantity::Whole => &round.whole,
            Quantity::FirstByte => &round.first_byte,
        }
    }

    /// All rounds' histograms together.
    fn merged(self, case: &Case) -> anyhow::Result<Histogram<u64>> {
        let (first, others) = case.rounds.split_first().context("a case without rounds")?;
        let mut merged = self.of(first).clone();
        for round in others {
            merged.add(self.of(round))?;
        }
        Ok(merged)
    }
}

/// A table in microseconds; behind each percentile of all rounds together the single rounds' spread.
pub(super) fn percentiles(cases: &[Case], quantity: Quantity) -> anyhow::Result<String> {
    let mut text = format!("## {}, microseconds\n\n|", quantity.name());
    for percentile in PERCENTILES {
        let _ = write!(text, " | p{percentile} (rounds)");
    }
    text += " | p50 more than direct | requests | failed | not begun |\n";
    text += "|---|---|---|---|---|---|---|---|\n";
    let mut direct = None;
    for case in cases {
        let merged = quantity.merged(case)?;
        let _ = write!(text, "| {}", case.name);
        for percentile in PERCENTILES {
            let rounds = case.rounds.iter().map(|round| quantity.of(round));
            let (least, most) = extremes(rounds.map(|h| h.value_at_percentile(percentile) as f64));
            let all = merged.value_at_percentile(percentile);
            let _ = write!(text, " | {all} ({least} to {most})");
        }
        let median = merged.value_at_percentile(50.0) as f64;
        let more = median - *direct.get_or_insert(median);
        let failed: u64 = case.rounds.iter().map(|round| round.failed).sum();
        let behind: u64 = case.rounds.iter().map(|round| round.behind).sum();
        let _ = writeln!(text, " | {more} | {} | {failed} | {behind} |", merged.len());
    }
    Ok(text)
}

/// Each round's percentiles.
pub(super) fn raw(cases: &[Case]) -> String {
    let mut text = String::from("case,quantity,round,requests,failed,p50_us,p99_us,p99.9_us\n");
    for quantity in Quantity::ALL {
        for case in cases {
            for (number, round) in case.rounds.iter().enumerate() {
                let histogram = quantity.of(round);
                let _ = write!(
                    text,
                    "\"{}\",\"{}\",{number},{},{}",
                    case.name,
                    quantity.name(),
                    histogram.len(),
                    round.failed
                );
                for percentile in PERCENTILES {
                    let _ = write!(text, ",{}", histogram.value_at_percentile(percentile));
                }
                text.push('\n');
            }
        }
    }
    text
}

/// All rounds' histograms together, bucket by bucket.
pub(super) fn histograms(cases: &[Case]) -> anyhow::Result<String> {
    let mut text = String::from("case,quantity,up_to_us,count\n");
    for quantity in Quantity::ALL {
        for case in cases {
            for bucket in quantity.merged(case)?.iter_recorded() {
                let _ = writeln!(
                    text,
                    "\"{}\",\"{}\",{},{}",
                    case.name,
                    quantity.name(),
                    bucket.value_iterated_to(),
                    bucket.count_since_last_iteration()
                );
            }
        }
    }
    Ok(text)
}

/// Bars of the time to the first byte: DTS's sides beside direct, and the peers beside direct. (All together would not be
/// readable.)
pub(super) fn plots(cases: &[Case]) -> anyhow::Result<Vec<(&'static str, String)>> {
    let ours = |case: &&Case| !case.side.is_proxy() && case.side != Side::XtCluster;
    let peers = |case: &&Case| {
        case.side == Side::Direct || case.side.is_proxy() || case.side == Side::XtCluster
    };
    let of_dts = cases.iter().filter(ours).collect();
    let of_peers = cases.iter().filter(peers).collect();
    Ok(vec![
        ("latency-dts.svg", bars("First byte: DTS", of_dts)?),
        (
            "latency-peers.svg",
            bars("First byte: peers (r: reused server connections)", of_peers)?,
        ),
    ])
}

fn bars(title: &str, cases: Vec<&Case>) -> anyhow::Result<String> {
    let names: Vec<&str> = cases.iter().map(|case| case.short).collect();
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for case in cases {
        let merged = Quantity::FirstByte.merged(case)?;
        p50.push(merged.value_at_percentile(50.0) as f64);
        p99.push(merged.value_at_percentile(99.0) as f64);
    }
    plot::bars(title, "microseconds", &names, &[("p50", p50), ("p99", p99)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(values: &[u64]) -> Round {
        let mut histogram = Histogram::new(3).unwrap();
        values.iter().for_each(|v| histogram.record(*v).unwrap());
        Round {
            first_byte: histogram.clone(),
            whole: histogram,
            failed: 1,
            behind: 0,
        }
    }

    #[test]
    fn rounds_are_put_together() {
        let mut cases = Case::all();
        for (number, case) in cases.iter_mut().enumerate() {
            let more = number as u64;
            case.rounds = vec![round(&[10 + more; 3]), round(&[20 + more; 2])];
        }
        let text = percentiles(&cases, Quantity::FirstByte).unwrap();
        let line =
            "| DTS adopt, kept | 11 (11 to 21) | 21 (11 to 21) | 21 (11 to 21) | 1 | 5 | 2 | 0 |";
        assert!(text.contains(line), "{text}");
        assert_eq!(raw(&cases).lines().count(), 1 + 2 * 2 * cases.len());
        assert!(
            histograms(&cases)
                .unwrap()
                .contains("to the first byte\",10,3\n")
        );
        assert_eq!(plots(&cases).unwrap().len(), 2);
    }
}
