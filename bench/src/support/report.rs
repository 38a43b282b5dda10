//! What a run says: the paper's two tables with ours beside them, raw figures, plots.

use std::fmt::Write as _;
use std::fs;

use super::measure::Outcome;
use super::model::Model;
use super::qos::{Grades, Tally};
use super::servers::JAVA_OPTIONS;
use super::{Extent, Method, NODES, VIRTUAL_NODES};
use crate::plot::bars;
use crate::run::{Report, extremes, figure, median};

/// The paper's Table 3 (L4, L7): downloads and pages, each good, tolerable, failed.
const PAPER_QOS: [(&str, Grades, Grades); 2] = [
    (
        "paper, L4",
        grades(20_643, 116, 100),
        grades(284_938, 1935, 5),
    ),
    (
        "paper, L7",
        grades(20_879, 109, 52),
        grades(288_112, 378, 3),
    ),
];
/// The paper's Table 4: threads that wait, and KB/s, of each node.
const PAPER_DISK: [(&str, [f64; 4], [f64; 4]); 2] = [
    (
        "paper, L4",
        [0.20, 0.12, 0.21, 0.12],
        [11_038.0, 10_294.0, 11_970.0, 11_513.0],
    ),
    (
        "paper, L7",
        [0.028, 0.011, 0.061, 0.22],
        [2839.0, 3196.0, 7330.0, 10_169.0],
    ),
];
/// What is looked at, in words, and how it is found.
type Question<'a, Of, Answer> = (&'a str, fn(&Of) -> Answer);
/// From what part of the cores on the machine may have been the limit.
const FULL: f64 = 0.9;
/// From what percent of its memory on a node's cache counts as full.
const CACHE_IS_FULL: f64 = 85.0;

const fn grades(good: u64, tolerable: u64, fail: u64) -> Grades {
    Grades {
        good,
        tolerable,
        fail,
    }
}

/// What was asked for, and what it means in bytes.
pub(super) fn set_up(report: &mut Report, extent: &Extent, model: &Model, device: &str) {
    let scale = &extent.scale;
    report.set_up("nodes", NODES);
    report.set_up("factor", scale.factor);
    report.set_up("sessions", scale.sessions);
    report.set_up("seconds", extent.seconds.as_secs());
    report.set_up("warm-up seconds", extent.warm_up.as_secs());
    report.set_up("downloads to fill the caches", extent.fill);
    report.set_up("rounds", extent.repeats);
    report.set_up(
        "ring",
        format!("{:?}, {VIRTUAL_NODES} virtual nodes each", extent.hash),
    );
    report.set_up("directories", model.directories);
    report.set_up(
        "directories that stay local in L7",
        model.local_directories(),
    );
    report.set_up(
        "MB of files on each node",
        model.bytes() / scale.factor / 1_000_000,
    );
    report.set_up(
        "MiB of memory for nginx and page cache",
        scale.memory() >> 20,
    );
    report.set_up("disk speed of a node, bytes/s", scale.disk_speed());
    report.set_up("disk", device);
    report.set_up("what empties caches besides the limit", reclaim());
    report.set_up("download limit, bytes/s", scale.speed());
    report.set_up("download chunk, bytes", scale.chunk());
    report.set_up("download receive buffer, bytes", scale.receive_buffer());
    report.set_up("Tomcat", JAVA_OPTIONS.join(" "));
    report.packages(&[
        "nginx",
        "nginx-light",
        "tomcat10-common",
        "openjdk-17-jre-headless",
    ]);
}

/// Tables, raw figures and plots.
pub(super) fn summarize(
    report: &mut Report,
    outcomes: &[Outcome],
    extent: &Extent,
) -> anyhow::Result<()> {
    report.file("raw.csv", raw(outcomes));
    report.summary(&scale_note(extent));
    report.summary(&table3(outcomes));
    report.summary(&table4(outcomes, extent));
    report.summary(&findings(outcomes));
    report.summary(&load(outcomes));
    report.summary(&caches(outcomes, extent));
    let node_names = ["n1", "n2", "n3", "n4"];
    let ours = Method::ALL.map(|method| {
        let reads = per_node(outcomes, method, |o, node| read_kbytes(o, node, extent));
        (method.name(), reads)
    });
    let paper = PAPER_DISK.map(|(name, _, reads)| (name, reads.to_vec()));
    let series: Vec<_> = ours.into_iter().chain(paper).collect();
    let title = "Disk reads of each node";
    let svg = bars(title, "KB/s at the paper's size", &node_names, &series)?;
    report.file("disk-reads.svg", svg);
    let ours = Method::ALL.map(|method| {
        let of = |kind: fn(&Tally) -> Grades| {
            median(of_method(outcomes, method).map(|o| kind(&o.tally).failed_percent()))
        };
        (method.name(), vec![of(|t| t.downloads), of(|t| t.pages)])
    });
    let paper = PAPER_QOS.map(|(name, downloads, pages)| {
        (
            name,
            vec![downloads.failed_percent(), pages.failed_percent()],
        )
    });
    let series: Vec<_> = ours.into_iter().chain(paper).collect();
    let svg = bars(
        "Failed requests",
        "percent",
        &["downloads", "pages"],
        &series,
    )?;
    report.file("failures.svg", svg);
    Ok(())
}

fn scale_note(extent: &Extent) -> String {
    let scale = &extent.scale;
    format!(
        "Sizes, rates, memory and disks are the paper's divided by {}; {} sessions, {} s that count after {} s, {} \
         rounds, medians. Disk reads are given at the paper's size, that is, multiplied again{}.",
        scale.factor,
        scale.sessions,
        extent.seconds.as_secs(),
        extent.warm_up.as_secs(),
        extent.repeats,
        if scale.share() < 1.0 {
            ", also by the sessions that are fewer"
        } else {
            ""
        }
    )
}

fn table3(outcomes: &[Outcome]) -> String {
    let mut table = String::from(
        "**Table 3**: requests and quality of service\n\n\
         | | file type | total | good | tolerable | fail | fail, percent | fail, percent, rounds |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let kinds: [Question<'_, Tally, Grades>; 2] =
        [("download", |t| t.downloads), ("JSP", |t| t.pages)];
    for (kind, of) in kinds {
        for method in Method::ALL {
            let grades = || of_method(outcomes, method).map(|o| of(&o.tally));
            let middle = |part: fn(&Grades) -> u64| median(grades().map(|g| part(&g) as f64));
            let (least, most) = extremes(grades().map(|g| g.failed_percent()));
            let _ = writeln!(
                table,
                "| {} | {kind} | {:.0} | {:.0} | {:.0} | {:.0} | {:.3} | {least:.3} to {most:.3} |",
                method.name(),
                middle(Grades::total),
                middle(|g| g.good),
                middle(|g| g.tolerable),
                middle(|g| g.fail),
                median(grades().map(|g| g.failed_percent())),
            );
        }
        for (name, downloads, pages) in &PAPER_QOS {
            let g = if kind == "download" { downloads } else { pages };
            let _ = writeln!(
                table,
                "| {name} | {kind} | {} | {} | {} | {} | {:.3} | |",
                g.total(),
                g.good,
                g.tolerable,
                g.fail,
                g.failed_percent()
            );
        }
    }
    table
}

fn table4(outcomes: &[Outcome], extent: &Extent) -> String {
    let mut table = String::from(
        "**Table 4**: disks, n1/n2/n3/n4\n\n\
         | | threads waiting, mean | disk reads, KB/s | sum | sum, rounds |\n|---|---|---|---|---|\n",
    );
    for method in Method::ALL {
        let waits = per_node(outcomes, method, |o, node| o.waits[node].mean);
        let reads = per_node(outcomes, method, |o, node| read_kbytes(o, node, extent));
        let sums = || {
            let of_round = |o| {
                (0..usize::from(NODES))
                    .map(move |n| read_kbytes(o, n, extent))
                    .sum()
            };
            of_method(outcomes, method).map(of_round)
        };
        let (least, most) = extremes(sums());
        let _ = writeln!(
            table,
            "| {} | {} | {} | {:.0} | {least:.0} to {most:.0} |",
            method.name(),
            joined(&waits, figure),
            joined(&reads, |r| format!("{r:.0}")),
            median(sums()),
        );
    }
    for (name, waits, reads) in &PAPER_DISK {
        let _ = writeln!(
            table,
            "| {name} | {} | {} | {:.0} | |",
            joined(waits, figure),
            joined(reads, |r| format!("{r:.0}")),
            reads.iter().sum::<f64>()
        );
    }
    table
}

/// Whether the paper's two findings hold here.
fn findings(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    let questions: [Question<'_, Outcome, f64>; 2] = [
        ("reads less from disks", |o| o.reads.iter().sum()),
        ("has fewer failed downloads, in percent,", |o| {
            o.tally.downloads.failed_percent()
        }),
    ];
    for (what, of) in questions {
        for method in [Method::Splice, Method::Adopt] {
            let pairs = of_method(outcomes, method).zip(of_method(outcomes, Method::L4));
            let (mut better, mut all) = (0, 0);
            for (ours, l4) in pairs {
                all += 1;
                better += usize::from(of(ours) < of(l4));
            }
            let middle = |method| median(of_method(outcomes, method).map(of));
            let (ours, l4) = (middle(method), middle(Method::L4));
            let verdict = match (ours < l4, better == all) {
                (true, true) => "yes",
                (true, false) => "by the medians only",
                (false, _) => "**NO**",
            };
            let _ = writeln!(
                text,
                "- {} {what} than L4: {verdict}, in {better} of {all} rounds ({} times L4's, by the medians).",
                method.name(),
                if l4 > 0.0 {
                    figure(ours / l4)
                } else {
                    "?".to_owned()
                },
            );
        }
    }
    text
}

/// Whether the machine was the limit, and errors.
fn load(outcomes: &[Outcome]) -> String {
    let most = |of: fn(&Outcome) -> f64| extremes(outcomes.iter().map(of)).1;
    let (machine, client) = (most(|o| o.machine), most(|o| o.client));
    let mut text = format!(
        "At most {:.0} % of the cores were in use during a measurement, and the client took {:.0} % of one core.",
        machine * 100.0,
        client * 100.0
    );
    if machine > FULL || client > FULL {
        text += " **The machine was the limit, or near it: fewer sessions would show the nodes better.**";
    }
    for outcome in outcomes.iter().filter(|o| !o.tally.errors.is_empty()) {
        let _ = write!(
            text,
            "\nErrors with {}, round {}: {:?}.",
            outcome.method.name(),
            outcome.repeat + 1,
            outcome.tally.errors
        );
    }
    text
}

/// Whether it was the memory that limited the caches.
fn caches(outcomes: &[Outcome], extent: &Extent) -> String {
    let limit = extent.scale.memory() as f64;
    let used = |of: fn(&Outcome) -> &Vec<u64>| {
        let bytes = outcomes.iter().flat_map(of);
        extremes(bytes.map(|bytes| *bytes as f64 / limit * 100.0))
    };
    let (least, most) = used(|o| &o.filled);
    let mut text = format!(
        "When the caches had been filled, nginx and page cache of a node had {least:.0} to {most:.0} % of their memory in use"
    );
    let (least, most) = used(|o| &o.memory);
    let _ = write!(text, ", and {least:.0} to {most:.0} % at the end.");
    if least < CACHE_IS_FULL {
        text += " **So the limit of memory was not, or not alone, what decided which files were cached: it was the time since \
                 the caches were emptied, or something on this machine takes from memory what was not used for a while (the \
                 set-up says what is known of that). More downloads to fill the caches, or less memory, would tell.**";
    }
    text
}

/// What is known of mechanisms that take file pages from memory while there is enough of it.
fn reclaim() -> String {
    let parameter = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let mut found = Vec::new();
    if parameter("/sys/module/damon_reclaim/parameters/enabled") == "Y" {
        found.push("DAMON_RECLAIM is enabled".to_owned());
    }
    let damon = "/sys/kernel/mm/damon/admin/kdamonds";
    for entry in fs::read_dir(damon).into_iter().flatten().flatten() {
        let scheme = entry.path().join("contexts/0/schemes/0");
        let read = |path: &str| parameter(&scheme.join(path).to_string_lossy());
        if parameter(&entry.path().join("state").to_string_lossy()) == "on" {
            found.push(format!(
                "a DAMON scheme, {}, for what has age {} or more",
                read("action"),
                read("access_pattern/age/min")
            ));
        }
    }
    match found.is_empty() {
        true => "nothing known".to_owned(),
        false => found.join("; "),
    }
}

fn raw(outcomes: &[Outcome]) -> String {
    let mut csv = String::from("method,round,seconds");
    for kind in ["download", "page", "page_alone"] {
        for grade in ["total", "good", "tolerable", "fail"] {
            let _ = write!(csv, ",{kind}_{grade}");
        }
    }
    csv += ",download_late,download_bytes,images,errors,misplaced,page_p50_ms,page_p99_ms,client_cores,machine_used";
    for what in [
        "waiting",
        "waiting_most",
        "read_bytes_per_s",
        "filled_bytes",
        "memory_bytes",
        "downloads",
    ] {
        for node in 1..=NODES {
            let _ = write!(csv, ",{what}_n{node}");
        }
    }
    csv.push('\n');
    for outcome in outcomes {
        row(&mut csv, outcome);
    }
    csv
}

fn row(csv: &mut String, outcome: &Outcome) {
    let tally = &outcome.tally;
    let _ = write!(
        csv,
        "\"{}\",{},{:.3}",
        outcome.method.name(),
        outcome.repeat + 1,
        outcome.seconds
    );
    for grades in [&tally.downloads, &tally.pages, &tally.dynamic] {
        let Grades {
            good,
            tolerable,
            fail,
        } = grades;
        let _ = write!(csv, ",{},{good},{tolerable},{fail}", grades.total());
    }
    let _ = write!(
        csv,
        ",{},{},{},{},{},{},{},{:.3},{:.3}",
        tally.late,
        tally.bytes,
        tally.images,
        tally.errors.values().sum::<u64>(),
        tally.misplaced,
        tally.page_percentile(50.0),
        tally.page_percentile(99.0),
        outcome.client,
        outcome.machine
    );
    let waits = || outcome.waits.iter();
    let columns = waits()
        .map(|w| format!("{:.4}", w.mean))
        .chain(waits().map(|w| w.most.to_string()))
        .chain(outcome.reads.iter().map(|r| format!("{r:.0}")))
        .chain(outcome.filled.iter().map(u64::to_string))
        .chain(outcome.memory.iter().map(u64::to_string))
        .chain(tally.by_node.iter().map(u64::to_string));
    for column in columns {
        let _ = write!(csv, ",{column}");
    }
    csv.push('\n');
}

fn of_method(outcomes: &[Outcome], method: Method) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(move |o| o.method == method)
}

/// Each node's median of the rounds.
fn per_node(outcomes: &[Outcome], method: Method, of: impl Fn(&Outcome, usize) -> f64) -> Vec<f64> {
    let middle = |node| median(of_method(outcomes, method).map(|o| of(o, node)));
    (0..usize::from(NODES)).map(middle).collect()
}

fn read_kbytes(outcome: &Outcome, node: usize, extent: &Extent) -> f64 {
    extent.scale.original_kbytes(outcome.reads[node])
}

fn joined(values: &[f64], text: impl Fn(f64) -> String) -> String {
    values
        .iter()
        .map(|v| text(*v))
        .collect::<Vec<_>>()
        .join("/")
}
