//! Tables and bars with a row for each side.

use std::fmt::Write as _;

use super::Side;
use crate::plot;
use crate::run::{extremes, figure, median};

/// A question, and what each side's rounds answered.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Further columns, whose text each row has in `notes`.
    pub(crate) columns: &'static [&'static str],
    pub(crate) rows: Vec<Row>,
}

/// A side's figures, one for each round.
pub(crate) struct Row {
    pub(crate) side: Side,
    /// What the row is called, where a side has more than one.
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
    pub(crate) notes: Vec<String>,
}

impl Row {
    /// A row of this side's name.
    pub(crate) fn new(side: Side) -> Self {
        Self::named(side, side.name())
    }

    pub(crate) fn named(side: Side, name: impl Into<String>) -> Self {
        Self {
            side,
            name: name.into(),
            values: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl Table {
    /// A row for each of these sides.
    pub(crate) fn new(
        name: &'static str,
        unit: &'static str,
        columns: &'static [&'static str],
        sides: &[Side],
    ) -> Self {
        Self {
            name,
            unit,
            columns,
            rows: sides.iter().copied().map(Row::new).collect(),
        }
    }

    /// The summary's table: medians and spreads, and beside them the ratios to the first row of the same round.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "## {}\n\n| | decides by | {}, median | least to most | of direct, median | ratios | rounds |",
            self.name, self.unit
        );
        for column in self.columns {
            let _ = write!(text, " {column} |");
        }
        let _ = write!(text, "\n|---|---|---|---|---|---|---|");
        text += &"---|".repeat(self.columns.len());
        text.push('\n');
        let partner = self.rows.first().map_or(&[][..], |row| &row.values);
        for row in &self.rows {
            text += &row.markdown(partner);
            for note in &row.notes {
                let _ = write!(text, " {note} |");
            }
            text.push('\n');
        }
        text
    }

    /// The rounds' figures as lines of `measure,unit,side,round,value`.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            for (round, value) in row.values.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "\"{}\",{},\"{}\",{round},{value:.3}",
                    self.name, self.unit, row.name
                );
            }
        }
        text
    }
}

/// The first line of [`Table::csv`].
pub(crate) const CSV: &str = "measure,unit,side,round,value\n";

/// Bars of some tables' medians: a group for each side, in which each table has a bar.
pub(crate) fn bars(title: &str, tables: &[&Table]) -> anyhow::Result<String> {
    let Some(first) = tables.first() else {
        anyhow::bail!("no table for `{title}`");
    };
    let sides: Vec<&str> = first.rows.iter().map(|row| row.side.short()).collect();
    let series: Vec<(&str, Vec<f64>)> = tables
        .iter()
        .map(|table| {
            let value = |row: &Row| {
                let same = table.rows.iter().find(|other| other.side == row.side);
                same.map_or(0.0, |row| median(row.values.iter().copied()))
            };
            (table.name, first.rows.iter().map(value).collect())
        })
        .collect();
    plot::bars(title, first.unit, &sides, &series)
}

impl Row {
    fn markdown(&self, partner: &[f64]) -> String {
        let decides = match self.side {
            Side::Direct => "the client",
            side if side.by_content() => "content",
            _ => "flow",
        };
        let values = || self.values.iter().copied();
        let ratios = || values().zip(partner).map(|(own, partner)| own / partner);
        let (least, most) = extremes(values());
        let (lowest, highest) = extremes(ratios());
        format!(
            "| {} | {decides} | {} | {} to {} | {:.2} | {lowest:.2} to {highest:.2} | {} |",
            self.name,
            figure(median(values())),
            figure(least),
            figure(most),
            median(ratios()),
            self.values.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let mut table = Table::new("new", "conn/s", &["failed"], &[Side::Direct, Side::L4]);
        table.rows[0].values = vec![100.0, 200.0, 400.0];
        table.rows[1].values = vec![50.0, 120.0, 360.0];
        table.rows[1].notes = vec!["3".to_owned()];
        let text = table.markdown();
        let line = "| DTS L4 | flow | 120 | 50.0 to 360 | 0.60 | 0.50 to 0.90 | 3 | 3 |\n";
        assert!(text.ends_with(line), "{text}");
        assert!(
            table
                .csv()
                .ends_with("\"new\",conn/s,\"DTS L4\",2,360.000\n")
        );
        assert!(bars("t", &[&table]).unwrap().contains("DTS L4"));
    }
}
