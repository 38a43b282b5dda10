//! `dts stats`.

use std::collections::BTreeMap;

use dts_core::verdict::{Action, DropReason};
use dts_node::admin::StatsView;

use super::grouped;
use super::table::{Align, Table};

/// The counters, those of the filter in the order of its decisions; with `all` those at 0, too.
pub(crate) fn stats(view: &StatsView, all: bool) -> String {
    let sections = [
        (
            "PACKETS THAT WENT ON",
            &view.actions,
            Action::ALL.iter().map(|action| action.name()).collect(),
        ),
        (
            "PACKETS DROPPED",
            &view.drops,
            DropReason::ALL.iter().map(|reason| reason.name()).collect(),
        ),
        ("INSPECTOR", &view.inspector, Vec::new()),
    ];
    let texts = sections.map(|(heading, counters, order)| section(heading, counters, &order, all));
    texts.join("\n")
}

fn section(
    heading: &'static str,
    counters: &BTreeMap<String, u64>,
    order: &[&str],
    all: bool,
) -> String {
    // Names that this program doesn't know come last.
    let known = order
        .iter()
        .filter_map(|name| counters.get_key_value(*name));
    let unknown = counters
        .iter()
        .filter(|(name, _)| !order.contains(&name.as_str()));
    let mut table = Table::new([(heading, Align::Left), ("COUNT", Align::Right)]);
    for (name, count) in known.chain(unknown) {
        if all || *count > 0 {
            table.row([name.clone(), grouped(*count)]);
        }
    }
    if table.is_empty() {
        table.row(["(none)".to_owned(), "0".to_owned()]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use dts_core::verdict::Verdict;

    use super::super::tests::plain;
    use super::*;

    fn sample() -> StatsView {
        let mut counters = [0; 100];
        counters[Verdict::Done(Action::ToServer).counter() as usize] = 1_234_567;
        counters[Verdict::Done(Action::Other).counter() as usize] = 12;
        counters[Verdict::Drop(DropReason::NotOwner).counter() as usize] = 3;
        let mut view = StatsView::new(&counters, BTreeMap::from([("accepted".to_owned(), 5)]));
        view.drops.insert("of_a_newer_daemon".to_owned(), 1);
        view
    }

    #[test]
    fn counters_at_zero_are_left_out() {
        insta::assert_snapshot!(plain(&stats(&sample(), false)), @r"
        PACKETS THAT WENT ON      COUNT
        other                        12
        to_server             1,234,567

        PACKETS DROPPED    COUNT
        not_owner              3
        of_a_newer_daemon      1

        INSPECTOR  COUNT
        accepted       5
        ");
    }

    #[test]
    fn nothing_is_said_so() {
        let text = plain(&stats(&StatsView::new(&[], BTreeMap::new()), false));
        assert_eq!(text.matches("(none)").count(), 3, "{text}");
    }

    #[test]
    fn all_means_all() {
        let text = plain(&stats(&sample(), true));
        for index in 0..dts_core::verdict::COUNTERS {
            let name = Verdict::from_counter(index).unwrap().name();
            let lines = text
                .lines()
                .filter(|line| line.split(' ').next() == Some(name));
            assert_eq!(lines.count(), 1, "{name}");
        }
    }
}
