//! A run's folder: how the machine was, the raw numbers, the summary.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// One measurement of both sides, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) ours: f64,
    pub(crate) partner: f64,
}

/// A question, and its pairs.
pub(crate) struct Comparison {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) pairs: Vec<Pair>,
}

impl Comparison {
    /// Medians of both sides, and smallest, median and largest ratio of the pairs.
    fn summary(&self) -> String {
        let ours = median(self.pairs.iter().map(|p| p.ours));
        let partner = median(self.pairs.iter().map(|p| p.partner));
        let ratios = || self.pairs.iter().map(|p| p.ours / p.partner);
        format!(
            "| {} | {} | {ours:.0} | {partner:.0} | {:.2} | {:.2} to {:.2} | {} |",
            self.name,
            self.unit,
            median(ratios()),
            ratios().fold(f64::INFINITY, f64::min),
            ratios().fold(0.0, f64::max),
            self.pairs.len(),
        )
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Writes the run's folder and returns its path and the summary's text.
pub(crate) fn record(
    runs: &Path,
    name: &str,
    comparisons: &[Comparison],
) -> anyhow::Result<(PathBuf, String)> {
    let date = output("date", &["-u", "+%Y-%m-%dT%H%M%S"]);
    let folder = runs.join(format!("{date}-{name}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
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
    let write = |file: &str, text: &str| {
        fs::write(folder.join(file), text)
            .with_context(|| format!("cannot write {file} in {}", folder.display()))
    };
    write("set-up.txt", &set_up())?;
    write("raw.csv", &raw)?;
    write("summary.md", &summary)?;
    Ok((folder, summary))
}

fn set_up() -> String {
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
        "kernel: {}\n{model}\ncores: {cores}\nload before: {}\nrevision: {}\nnginx: {}\nwrk: {}\ncurl: {}\n",
        output("uname", &["-r"]),
        fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .trim(),
        output("git", &["describe", "--always", "--dirty"]),
        output("dpkg-query", &["-W", "-f", "${Version}", "nginx-light"]),
        output("dpkg-query", &["-W", "-f", "${Version}", "wrk"]),
        output("dpkg-query", &["-W", "-f", "${Version}", "curl"]),
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
}
