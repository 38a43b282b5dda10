//! A row of a ladder: the parties' lines, and an arrow from one to another.

/// The lines of so many parties, so far apart, in characters.
pub(crate) fn lines(parties: usize, distance: usize) -> Vec<char> {
    let mut row = vec![' '; distance * (parties - 1) + 1];
    row.iter_mut().step_by(distance).for_each(|c| *c = '│');
    row
}

/// Draws an arrow between the lines in two places, on which the first of `labels` is written that has room. That of a
/// segment that doesn't get there has no head.
pub(crate) fn draw_arrow(
    row: &mut [char],
    (from, to): (usize, usize),
    labels: &[String],
    dropped: bool,
) {
    let (left, right) = (from.min(to), from.max(to));
    row[left + 1..right].fill('─');
    let (end, head) = match from < to {
        true => (right - 1, '▶'),
        false => (left + 1, '◀'),
    };
    row[end] = if dropped { '╳' } else { head };
    // At least one dash stays between label and head, and two before the label.
    write(&mut row[left + 3..], labels, right - left - 5);
}

/// Writes the first of `labels` that has room.
pub(crate) fn write(row: &mut [char], labels: &[String], room: usize) {
    let label = labels.iter().find(|label| label.chars().count() <= room);
    let characters = label.into_iter().flat_map(|label| label.chars());
    for (place, character) in row.iter_mut().zip(characters) {
        *place = character;
    }
}
