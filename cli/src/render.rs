//! Answers, as people read them.
//!
//! Each function makes a text with ANSI styles in it; [`print()`] takes the styles out where they
//! don't belong, as in a file. Nothing is ever shortened to fit a width.

mod connections;
mod ring;
mod stats;
mod status;
mod table;

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

pub(crate) use self::connections::connections;
pub(crate) use self::ring::ring;
pub(crate) use self::stats::stats;
pub(crate) use self::status::{reload, status};

const BOLD: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Writes a text to standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a value to standard output as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn warnings(warnings: &[String]) -> String {
    let line = |warning: &String| match warning.contains(": warning: ") {
        // One about a place in a file has the word behind the place.
        true => format!("{warning}\n"),
        false => format!("{}: {warning}\n", styled(WARNING, "warning")),
    };
    warnings.iter().map(line).collect()
}

/// A duration with one or two units, e.g. `250 ms`, `1.9 s`, `3 min 20 s`, `2 d 4 h`.
fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..10 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A number with its digits in groups of three, e.g. `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text as a file would get it.
    pub(super) fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn durations_have_the_units_that_matter() {
        for (milliseconds, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1950, "1.9 s"),
            (59_999, "59 s"),
            (200_000, "3 min 20 s"),
            (7_260_000, "2 h 1 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(duration(milliseconds), text);
        }
    }

    #[test]
    fn digits_are_grouped_by_three() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
