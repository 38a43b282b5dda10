//! SVG plots of a run's figures.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Told apart in print and by most who don't see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];
const SIZE: (u32, u32) = (720, 420);

/// A line of a plot.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A point, and between what the repeats lay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Point {
    /// The median of some repeats, and their spread.
    pub(crate) fn of(x: f64, repeats: &[f64]) -> Self {
        let (least, most) = crate::run::extremes(repeats.iter().copied());
        let y = crate::run::median(repeats.iter().copied());
        Self { x, y, least, most }
    }
}

/// What the axes are.
pub(crate) struct Axes<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Whether `x` grows by factors.
    pub(crate) log_x: bool,
}

/// A plot of lines over numbers, from zero upwards, with the repeats' spread as bars.
pub(crate) fn lines(axes: &Axes<'_>, series: &[Series]) -> Result<String> {
    let points = || series.iter().flat_map(|s| &s.points);
    let (first, last) = crate::run::extremes(points().map(|p| p.x));
    let (_, most) = crate::run::extremes(points().map(|p| p.most));
    if !(first <= last && most.is_finite()) {
        return Err(anyhow!("nothing to plot in `{}`", axes.title));
    }
    let top = if most > 0.0 { most * 1.08 } else { 1.0 };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut builder = ChartBuilder::on(&area);
        builder
            .caption(axes.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70);
        if axes.log_x {
            let range = (first * 0.9..last * 1.1).log_scale();
            let mut chart = builder
                .build_cartesian_2d(range, 0.0..top)
                .map_err(failed)?;
            draw(&mut chart, axes, series)?;
        } else {
            let room = (last - first).max(1.0) * 0.03;
            let mut chart = builder
                .build_cartesian_2d(first - room..last + room, 0.0..top)
                .map_err(failed)?;
            draw(&mut chart, axes, series)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn draw<'a, X>(
    chart: &mut ChartContext<
        'a,
        SVGBackend<'a>,
        Cartesian2d<X, plotters::coord::types::RangedCoordf64>,
    >,
    axes: &Axes<'_>,
    series: &[Series],
) -> Result<()>
where
    X: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13))
        .draw()
        .map_err(failed)?;
    for (number, line) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = line.points.iter().map(|p| (p.x, p.y));
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
            .map_err(failed)?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart
            .draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))
            .map_err(failed)?;
        let spreads = line.points.iter().filter(|p| p.least < p.most);
        chart
            .draw_series(
                spreads.map(|p| {
                    PathElement::new([(p.x, p.least), (p.x, p.most)], colour.stroke_width(1))
                }),
            )
            .map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()
        .map_err(failed)
}

/// Groups of bars: for each category one bar of each series. `values[series][category]`.
pub(crate) fn bars(
    title: &str,
    y: &str,
    categories: &[&str],
    series: &[(&str, Vec<f64>)],
) -> Result<String> {
    let (_, most) =
        crate::run::extremes(series.iter().flat_map(|(_, values)| values.iter().copied()));
    if categories.is_empty() || !most.is_finite() {
        return Err(anyhow!("nothing to plot in `{title}`"));
    }
    let top = if most > 0.0 { most * 1.15 } else { 1.0 };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.5..categories.len() as f64 - 0.5, 0.0..top)
            .map_err(failed)?;
        let name = |x: &f64| {
            let nearest = x.round();
            let known = (x - nearest).abs() < 0.01 && nearest >= 0.0;
            let name = known.then(|| categories.get(nearest as usize)).flatten();
            name.map_or_else(String::new, |name| (*name).to_owned())
        };
        chart
            .configure_mesh()
            .y_desc(y)
            .disable_x_mesh()
            .x_labels(categories.len() + 1)
            .x_label_formatter(&name)
            .y_label_formatter(&|y| short(*y))
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 13))
            .draw()
            .map_err(failed)?;
        let width = 0.8 / series.len().max(1) as f64;
        for (number, (name, values)) in series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let bars = values.iter().enumerate().map(|(category, value)| {
                let left = category as f64 - 0.4 + number as f64 * width;
                Rectangle::new(
                    [(left, 0.0), (left + width * 0.92, *value)],
                    colour.filled(),
                )
            });
            chart
                .draw_series(bars)
                .map_err(failed)?
                .label(*name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled())
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 13))
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot plot: {error}")
}

/// A number at an axis.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        v if v >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_axes_names_and_points() {
        let axes = Axes {
            title: "Title",
            x: "nodes",
            y: "conn/s",
            log_x: true,
        };
        let series = [Series {
            name: "one".to_owned(),
            points: vec![Point::of(1.0, &[1.0, 3.0, 2.0]), Point::of(8.0, &[9.0])],
        }];
        let svg = lines(&axes, &series).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["Title", "nodes", "conn/s", "one"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(lines(&axes, &[]).is_err());
    }

    #[test]
    fn bars_stand_in_groups() {
        let series = [("L4", vec![1.0, 2.0]), ("L7", vec![0.5, 0.0])];
        let svg = bars("Reads", "KB/s", &["n1", "n2"], &series).unwrap();
        for text in ["Reads", "KB/s", "n1", "n2", "L4", "L7"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(bars("Reads", "KB/s", &[], &[]).is_err());
    }
}
