//! Aligned columns.

use super::{BOLD, styled};

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table with a heading for each column.
pub(super) struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [(&'static str, Align); N]) -> Self {
        let rows = Vec::new();
        Self { columns, rows }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The headings and rows, a line each.
    pub(super) fn render(&self) -> String {
        let headings = self.columns.map(|(heading, _)| heading.to_owned());
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().chain([&headings]);
            cells
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        let mut text = format!("{}\n", styled(BOLD, &self.line(&headings, &widths)));
        for row in &self.rows {
            text += &self.line(row, &widths);
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String; N], widths: &[usize; N]) -> String {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .zip(&self.columns)
            .map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::plain;
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([("NAME", Align::Left), ("COUNT", Align::Right)]);
        table.row(["ä".to_owned(), "1".to_owned()]);
        table.row(["longer".to_owned(), "123456".to_owned()]);
        insta::assert_snapshot!(plain(&table.render()), @r"
        NAME     COUNT
        ä            1
        longer  123456
        ");
    }
}
