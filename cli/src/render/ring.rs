//! `dts ring`.

use dts_node::admin::{OwnerView, PointView, RingView};

use super::table::{Align, Table};

/// The ring and its members; then what was asked for.
pub(crate) fn ring(view: &RingView) -> String {
    let mut text = format!(
        "Epoch {}, {}, {} virtual nodes\n\n{}",
        view.epoch,
        view.hash.name(),
        view.virtual_nodes,
        members(view)
    );
    if let Some(owner) = &view.owner {
        text += &format!("\n{}\n", owner_line(owner));
    }
    if let Some(points) = &view.points {
        text += &format!("\n{}", point_table(points));
    }
    text
}

fn members(view: &RingView) -> String {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("POINTS", Align::Right),
        ("SHARE", Align::Right),
    ]);
    for member in &view.members {
        table.row([
            member.id.clone(),
            member.address.to_string(),
            member.points.to_string(),
            format!("{:.1} %", member.share * 100.0),
        ]);
    }
    table.render()
}

fn owner_line(owner: &OwnerView) -> String {
    let OwnerView {
        of,
        hash,
        id,
        address,
    } = owner;
    format!("The {of} is at {hash}: it belongs to {id} ({address}).")
}

fn point_table(points: &[PointView]) -> String {
    let mut table = Table::new([("POINT", Align::Left), ("NODE", Align::Left)]);
    for point in points {
        table.row([point.hash.clone(), point.id.clone()]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use dts_node::admin::{Lookup, RingHashName, RingMemberView};

    use super::super::tests::plain;
    use super::*;

    #[test]
    fn members_owner_and_points_are_shown() {
        let member = |id: &str, address: &str, points, share| RingMemberView {
            id: id.to_owned(),
            address: address.parse().unwrap(),
            points,
            share,
        };
        let point = |hash: &str, id: &str| PointView {
            hash: hash.to_owned(),
            id: id.to_owned(),
        };
        let view = RingView {
            epoch: 7,
            hash: RingHashName::SipHash,
            virtual_nodes: 63,
            members: vec![
                member("n1", "198.18.1.11", 63, 0.5612),
                member("backup", "198.18.1.12", 0, 0.0),
            ],
            owner: Some(OwnerView {
                of: Lookup::Flow("198.18.0.1:4000".parse().unwrap()),
                hash: "8aede55bcb71aafb".to_owned(),
                id: "n1".to_owned(),
                address: "198.18.1.11".parse().unwrap(),
            }),
            points: Some(vec![
                point("0123456789abcdef", "n1"),
                point("f000000000000000", "backup"),
            ]),
        };
        insta::assert_snapshot!(plain(&ring(&view)), @r"
        Epoch 7, siphash, 63 virtual nodes

        NODE    ADDRESS      POINTS   SHARE
        n1      198.18.1.11      63  56.1 %
        backup  198.18.1.12       0   0.0 %

        The flow from 198.18.0.1:4000 is at 8aede55bcb71aafb: it belongs to n1 (198.18.1.11).

        POINT             NODE
        0123456789abcdef  n1
        f000000000000000  backup
        ");
    }
}
