//! A run: what it measures with, and the folder of what it measured.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use dts_lab::remove_on_signals;

/// What every experiment needs.
pub(crate) struct Run {
    /// The `dts` program, by its whole path.
    pub(crate) dts: PathBuf,
    /// Where run folders are made.
    pub(crate) runs: PathBuf,
    /// A short run of the same code, about a minute.
    pub(crate) quick: bool,
}

impl Run {
    /// Looks for the program, and has Ctrl-C remove the labs that will be made.
    pub(crate) fn new(dts: &Path, runs: &Path, quick: bool) -> anyhow::Result<Self> {
        let dts = dts.canonicalize().with_context(|| {
            format!(
                "no program {}: `cargo build --release -p dts` makes it",
                dts.display()
            )
        })?;
        remove_on_signals()?;
        Ok(Self {
            dts,
            runs: runs.to_owned(),
            quick,
        })
    }
}

/// What a run leaves: `set-up.txt`, CSV files with the raw figures, `summary.md`, SVG plots.
pub(crate) struct Report {
    name: String,
    set_up: String,
    files: Vec<(String, Vec<u8>)>,
    summary: String,
}

impl Report {
    /// An empty report of an experiment of this name. The machine is described now: its load is that before the run.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            set_up: machine(),
            files: Vec::new(),
            summary: String::new(),
        }
    }

    /// Adds a line to the set-up: what was asked for, how the peers are configured.
    pub(crate) fn set_up(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.set_up, "{key}: {value}");
    }

    /// Adds the versions of Debian packages to the set-up.
    pub(crate) fn packages(&mut self, packages: &[&str]) {
        for package in packages {
            let version = output("dpkg-query", &["-W", "-f", "${Version}", package]);
            self.set_up(package, version);
        }
    }

    /// Adds a file, such as raw figures (`raw.csv`) or a plot (`throughput.svg`).
    pub(crate) fn file(&mut self, name: &str, text: impl Into<String>) {
        self.bytes(name, text.into().into_bytes());
    }

    /// Adds a file that is no text, such as captured packets.
    pub(crate) fn bytes(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.push((name.to_owned(), bytes));
    }

    /// Adds Markdown to the summary.
    pub(crate) fn summary(&mut self, markdown: &str) {
        if !self.summary.is_empty() {
            self.summary.push('\n');
        }
        self.summary += markdown.trim_end();
        self.summary.push('\n');
    }

    /// Makes the run's folder, and shows the summary.
    pub(crate) fn finish(self, run: &Run) -> anyhow::Result<()> {
        let date = output("date", &["-u", "+%Y-%m-%dT%H%M%S"]);
        let folder = run.runs.join(format!("{date}-{}", self.name));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let own = [
            ("set-up.txt".to_owned(), self.set_up.into_bytes()),
            ("summary.md".to_owned(), self.summary.clone().into_bytes()),
        ];
        for (file, text) in own.iter().chain(&self.files) {
            fs::write(folder.join(file), text)
                .with_context(|| format!("cannot write {file} in {}", folder.display()))?;
        }
        println!("{}\n{}", self.summary, folder.display());
        Ok(())
    }
}

/// One measurement of both sides, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) ours: f64,
    pub(crate) partner: f64,
}

/// A question, and its pairs.
pub(crate) struct Comparison {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) pairs: Vec<Pair>,
}

impl Comparison {
    /// A question that nothing was measured for yet.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            pairs: Vec::new(),
        }
    }

    /// Adds a pair.
    pub(crate) fn push(&mut self, ours: f64, partner: f64) {
        self.pairs.push(Pair { ours, partner });
    }

    /// Medians of both sides, and smallest, median and largest ratio of the pairs.
    fn summary(&self) -> String {
        let ours = median(self.pairs.iter().map(|p| p.ours));
        let partner = median(self.pairs.iter().map(|p| p.partner));
        let ratios = || self.pairs.iter().map(|p| p.ours / p.partner);
        let (least, most) = extremes(ratios());
        format!(
            "| {} | {} | {} | {} | {:.2} | {least:.2} to {most:.2} | {} |",
            self.name,
            self.unit,
            figure(ours),
            figure(partner),
            median(ratios()),
            self.pairs.len(),
        )
    }
}

/// The summary's table of some questions, and the pairs as CSV.
pub(crate) fn tables(comparisons: &[Comparison]) -> (String, String) {
    let mut raw = String::from("comparison,unit,pair,ours,partner\n");
    let mut summary = String::from(
        "| | unit | ours, median | partner, median | ratio, median | ratios | pairs |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for comparison in comparisons {
        for (number, pair) in comparison.pairs.iter().enumerate() {
            let Comparison { name, unit, .. } = comparison;
            let _ = writeln!(
                raw,
                "\"{name}\",{unit},{number},{:.3},{:.3}",
                pair.ours, pair.partner
            );
        }
        let _ = writeln!(summary, "{}", comparison.summary());
    }
    (summary, raw)
}

/// A number with three digits at least.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle one, or the mean of the two in the middle; not a number when there are none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The smallest and the largest.
pub(crate) fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(value), most.max(value)),
    )
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or("model name: ?");
    let cores = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!(
        "command: {}\nkernel: {}\n{model}\ncores: {cores}\nload before: {}\nrevision: {}\n",
        std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        output("uname", &["-r"]),
        fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .trim(),
        output("git", &["describe", "--always", "--dirty"]),
    )
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn a_comparison_is_a_line_of_the_table() {
        let mut comparison = Comparison::new("a, b", "conn/s");
        comparison.push(50.0, 100.0);
        comparison.push(60.0, 100.0);
        comparison.push(900.0, 1000.0);
        let (summary, raw) = tables(&[comparison]);
        assert!(summary.ends_with("| a, b | conn/s | 60.0 | 100 | 0.60 | 0.50 to 0.90 | 3 |\n"));
        assert!(raw.ends_with("\"a, b\",conn/s,2,900.000,1000.000\n"));
    }

    #[test]
    fn a_report_is_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run {
            dts: "dts".into(),
            runs: dir.path().to_owned(),
            quick: true,
        };
        let mut report = Report::new("x");
        report.set_up("factor", 32);
        report.file("raw.csv", "a\n1\n");
        report.summary("| a |\n");
        report.summary("text");
        report.finish(&run).unwrap();
        let folder = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
        assert!(folder.file_name().to_string_lossy().ends_with("-x"));
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(read("set-up.txt").ends_with("factor: 32\n"));
        assert_eq!(read("raw.csv"), "a\n1\n");
        assert_eq!(read("summary.md"), "| a |\n\ntext\n");
    }
}
