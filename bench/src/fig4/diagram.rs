//! A handover as a sequence diagram, as text and as SVG: a line for each place, an arrow for each segment.

use std::fmt::Write as _;

use dts_lab::{Network, Place};

use super::sequence::{Arrow, Sequence};

/// How far the lines are apart in the text, in characters.
const DISTANCE: usize = 30;

/// Measures of the drawing, in pixels.
const FIRST_LINE: u32 = 110;
const BETWEEN_LINES: u32 = 290;
const ROW: u32 = 30;
const NOTES: u32 = FIRST_LINE + 2 * BETWEEN_LINES + 24;
const WIDTH: u32 = NOTES + 470;
const FRONT: &str = "#0072b2";
const BACK: &str = "#d55e00";

/// The places in their order from the left.
fn columns(sequence: &Sequence) -> [Place; 3] {
    [sequence.client, sequence.inspecting, sequence.processing]
}

fn column(sequence: &Sequence, place: Place) -> usize {
    let columns = columns(sequence);
    columns.iter().position(|p| *p == place).unwrap_or(0)
}

/// The diagram in characters.
pub(super) fn text(sequence: &Sequence) -> String {
    let mut text = format!("{}\n", sequence.title);
    for line in &sequence.legend {
        let _ = writeln!(text, "  {line}");
    }
    let [client, inspecting, processing] = columns(sequence).map(|p| p.to_string());
    let heads = [
        client,
        format!("{inspecting}, inspects"),
        format!("{processing}, processes"),
    ];
    let _ = write!(text, "\n{:>8}  ", "ms");
    for head in heads {
        let _ = write!(text, "{head:<DISTANCE$}");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    for arrow in &sequence.arrows {
        let ms = arrow.at.as_secs_f64() * 1000.0;
        let _ = writeln!(text, "{ms:>8.3}  {}  {}", row(sequence, arrow), arrow.note);
    }
    text
}

/// The places' lines with one arrow.
fn row(sequence: &Sequence, arrow: &Arrow) -> String {
    let mut row = vec![' '; 2 * DISTANCE + 1];
    for line in 0..3 {
        row[line * DISTANCE] = '│';
    }
    let (from, to) = (column(sequence, arrow.from), column(sequence, arrow.to));
    let (left, right) = (from.min(to) * DISTANCE, from.max(to) * DISTANCE);
    if left == right {
        return row.into_iter().collect();
    }
    row[left + 1..right].fill('─');
    let label = row[left + 3..right - 2].iter_mut();
    for (place, character) in label.zip(arrow.label.chars()) {
        *place = character;
    }
    match from < to {
        true => row[right - 1] = '▶',
        false => row[left + 1] = '◀',
    }
    row.into_iter().collect()
}

/// The diagram as a drawing.
pub(super) fn svg(sequence: &Sequence) -> String {
    let top = 56 + 18 * sequence.legend.len() as u32;
    let height = top + 30 + ROW * (sequence.arrows.len() as u32 + 1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"18\">{}</text>\n",
        escaped(&sequence.title)
    );
    for (number, line) in sequence.legend.iter().enumerate() {
        let y = 48 + 18 * number;
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{y}\" fill=\"#555\">{}</text>",
            escaped(line)
        );
    }
    let parts = ["", ", inspecting", ", processing"];
    for (place, part) in columns(sequence).iter().zip(parts) {
        let x = line_at(column(sequence, *place));
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{place}{part}</text>\n\
             <line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{}\" stroke=\"#999\"/>",
            top + 12,
            top + 20,
            height - 12
        );
    }
    for (number, arrow) in sequence.arrows.iter().enumerate() {
        draw(
            &mut svg,
            sequence,
            arrow,
            top + 20 + ROW * (number as u32 + 1),
        );
    }
    svg + "</svg>\n"
}

/// Draws one arrow, with its label above, its time before and its note behind.
fn draw(svg: &mut String, sequence: &Sequence, arrow: &Arrow, y: u32) {
    let colour = match arrow.network {
        Network::Front => FRONT,
        Network::Back => BACK,
    };
    let from = line_at(column(sequence, arrow.from));
    let to = line_at(column(sequence, arrow.to));
    let back = if from < to { to - 9 } else { to + 9 };
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"{}\" fill=\"#555\">{:.3} ms</text>\n\
         <line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
         <path d=\"M{to} {y} L{back} {} L{back} {} Z\" fill=\"{colour}\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{colour}\" stroke=\"white\" stroke-width=\"3\" \
         paint-order=\"stroke\">{}</text>\n\
         <text x=\"{NOTES}\" y=\"{}\">{}</text>",
        y + 4,
        arrow.at.as_secs_f64() * 1000.0,
        y - 4,
        y + 4,
        (from + to) / 2,
        y - 5,
        escaped(&arrow.label),
        y + 4,
        escaped(&arrow.note),
    );
}

const fn line_at(column: usize) -> u32 {
    FIRST_LINE + BETWEEN_LINES * column as u32
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sequence() -> Sequence {
        let arrow = |from, to, label: &str| Arrow {
            at: Duration::from_micros(1500),
            from,
            to,
            network: Network::Front,
            label: label.to_owned(),
            note: "a < b".to_owned(),
        };
        let (client, n1, n2) = (Place::Client(1), Place::Node(1), Place::Node(2));
        Sequence {
            title: "Title".to_owned(),
            client,
            inspecting: n1,
            processing: n2,
            legend: vec!["x = 1".to_owned()],
            arrows: vec![arrow(client, n1, "SYN x"), arrow(n2, client, "5 B y+1")],
        }
    }

    #[test]
    fn text_has_arrows_from_line_to_line() {
        let text = text(&sequence());
        let rows: Vec<_> = text.lines().skip(4).collect();
        assert!(rows[0].starts_with("   1.500  │──SYN x──") && rows[0].contains("─▶│"));
        assert!(rows[1].starts_with("   1.500  │◀─5 B y+1──"));
    }

    #[test]
    fn svg_has_an_arrow_for_each_segment() {
        let svg = svg(&sequence());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<path").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.contains("SYN x"));
    }
}
