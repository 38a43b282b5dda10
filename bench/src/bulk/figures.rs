//! Processor time per GB, by the parts that machines have in a download.

use std::fmt::Write as _;

use crate::peers::Side;
use crate::plot;
use crate::run::{extremes, figure, median};

/// What a machine does for a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Reads it and writes it.
    Proxy,
    /// Has read the request, and handed the connection over.
    Inspecting,
    /// Has the file.
    Processing,
    /// Drops its copies of the client's packets, where there are any.
    Idle,
}

impl Part {
    const ALL: [Part; 4] = [Part::Proxy, Part::Inspecting, Part::Processing, Part::Idle];

    fn name(self) -> &'static str {
        match self {
            Part::Proxy => "proxy",
            Part::Inspecting => "inspecting",
            Part::Processing => "processing",
            Part::Idle => "idle",
        }
    }
}

/// Seconds of processor time for each GB, of those who have a part.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    /// One machine's for each part.
    pub(super) parts: Vec<(Part, f64)>,
    /// All nodes' and the proxy's together, also of those that are idle like another one.
    pub(super) all: f64,
}

impl Cost {
    fn of(&self, part: Part) -> Option<f64> {
        let mut own = self.parts.iter().filter(|(of, _)| *of == part);
        own.next().map(|(_, seconds)| *seconds)
    }
}

/// A row for each side: medians, and between what the rounds lay.
pub(super) fn cost_table(sides: &[Side], costs: &[Vec<Cost>]) -> String {
    let mut text = "## Processor time, seconds per GB: median (least to most)\n\n|".to_owned();
    for part in Part::ALL {
        let _ = write!(text, " | {}", part.name());
    }
    text += " | all | of direct, median |\n|---|---|---|---|---|---|---|\n";
    for (side, rounds) in sides.iter().zip(costs) {
        let _ = write!(text, "| {}", side.name());
        for part in Part::ALL {
            let _ = write!(
                text,
                " | {}",
                cell(rounds.iter().filter_map(|c| c.of(part)))
            );
        }
        let partner = costs.first().into_iter().flatten();
        let ratios = rounds.iter().zip(partner).map(|(own, p)| own.all / p.all);
        let _ = writeln!(
            text,
            " | {} | {:.2} |",
            cell(rounds.iter().map(|cost| cost.all)),
            median(ratios)
        );
    }
    text
}

fn cell(values: impl Iterator<Item = f64> + Clone) -> String {
    let (least, most) = extremes(values.clone());
    match least <= most {
        true => format!(
            "{} ({} to {})",
            figure(median(values)),
            figure(least),
            figure(most)
        ),
        false => "-".to_owned(),
    }
}

/// Lines as those of `Table::csv`.
pub(super) fn csv(sides: &[Side], costs: &[Vec<Cost>]) -> String {
    let mut text = String::new();
    for (side, rounds) in sides.iter().zip(costs) {
        for (round, cost) in rounds.iter().enumerate() {
            let parts = cost.parts.iter().map(|(part, s)| (part.name(), *s));
            for (part, seconds) in parts.chain([("all", cost.all)]) {
                let name = side.name();
                let _ = writeln!(
                    text,
                    "\"processor time, {part}\",s/GB,\"{name}\",{round},{seconds:.6}"
                );
            }
        }
    }
    text
}

/// A group for each side, a bar for each part.
pub(super) fn cost_plot(sides: &[Side], costs: &[Vec<Cost>]) -> anyhow::Result<String> {
    let names: Vec<&str> = sides.iter().map(|side| side.short()).collect();
    let of = |part: Part| -> Vec<f64> {
        let medians = costs.iter().map(|rounds| {
            let middle = median(rounds.iter().filter_map(|c| c.of(part)));
            if middle.is_finite() { middle } else { 0.0 }
        });
        medians.collect()
    };
    let series: Vec<(&str, Vec<f64>)> = Part::ALL.map(|part| (part.name(), of(part))).into();
    plot::bars(
        "Processor time of downloads",
        "seconds per GB",
        &names,
        &series,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_stand_beside_direct() {
        let cost = |processing, idle| Cost {
            parts: vec![(Part::Processing, processing), (Part::Idle, idle)],
            all: processing + 2.0 * idle,
        };
        let sides = [Side::Direct, Side::L4];
        let costs = [
            vec![cost(1.0, 0.0), cost(2.0, 0.0)],
            vec![cost(1.0, 0.5), cost(2.0, 1.0)],
        ];
        let text = cost_table(&sides, &costs);
        let line = "| DTS L4 | - | - | 1.50 (1.00 to 2.00) | 0.750 (0.500 to 1.00) \
                    | 3.00 (2.00 to 4.00) | 2.00 |\n";
        assert!(text.ends_with(line), "{text}");
        assert_eq!(csv(&sides, &costs).lines().count(), 12);
        assert!(cost_plot(&sides, &costs).unwrap().contains("idle"));
    }
}
