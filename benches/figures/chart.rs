//! A small chart as SVG: logarithmic axes, a label beside each line, legible on light and on dark pages.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 430.0;
/// Left, right, top and bottom of the plotting area.
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 210.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = HEIGHT - 56.0;
/// Least distance between the labels of two lines.
const LABEL: f64 = 16.0;
/// Told apart with the common forms of colour blindness too (Okabe, Ito 2008).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5a5a5a"];

/// One line of a chart.
pub(crate) struct Line {
    pub(crate) label: String,
    /// x and seconds.
    pub(crate) points: Vec<(f64, f64)>,
    /// Drawn dashed and grey: what is not measured as a whole, but added up from parts.
    pub(crate) floor: bool,
}

/// A chart of times.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// A logarithmic axis from `low` to `high`, drawn from `from` to `to`.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        self.from + (value / self.low).ln() / (self.high / self.low).ln() * (self.to - self.from)
    }

    /// The values 1, 2 and 5 times a power of ten on the axis; powers alone where those would be too many.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let factors: &[f64] = if decades > 2.6 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let ticks = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
        ticks.filter(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick)).collect()
    }
}

impl Chart {
    /// The SVG document.
    pub(crate) fn svg(&self) -> String {
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = || self.lines.iter().flat_map(|line| line.points.iter().map(of));
            (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max))
        };
        let ((x_low, x_high), (y_low, y_high)) = (range(|point| point.0), range(|point| point.1));
        let x = Axis { low: x_low, high: x_high, from: LEFT, to: RIGHT };
        let y = Axis { low: y_low / 1.3, high: y_high * 1.3, from: BOTTOM, to: TOP };
        let mut svg = String::new();
        writeln!(
            svg,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{LEFT}" y="26" font-size="16">{}</text>"##,
            self.title
        )
        .unwrap();
        self.axes(&mut svg, &x, &y);
        self.draw(&mut svg, &x, &y);
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String, x: &Axis, y: &Axis) {
        for tick in x.ticks() {
            let at = x.at(tick);
            writeln!(
                svg,
                r##"<path d="M{at:.1} {TOP}V{BOTTOM}" stroke="#e4e4e4"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"##,
                BOTTOM + 19.0
            )
            .unwrap();
        }
        for tick in y.ticks() {
            let at = y.at(tick);
            writeln!(
                svg,
                r##"<path d="M{LEFT} {at:.1}H{RIGHT}" stroke="#e4e4e4"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"##,
                LEFT - 8.0,
                at + 4.5,
                tick_label(tick)
            )
            .unwrap();
        }
        let middle = f64::midpoint(LEFT, RIGHT);
        writeln!(
            svg,
            r##"<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#222"/>
<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{}</text>
<text transform="translate(20 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"##,
            HEIGHT - 14.0,
            self.x,
            f64::midpoint(TOP, BOTTOM),
            self.y
        )
        .unwrap();
    }

    fn draw(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let mut labels: Vec<(f64, &str, &str)> = Vec::new();
        let mut colours = COLOURS.iter();
        for line in &self.lines {
            let colour = if line.floor { "#888" } else { colours.next().unwrap_or(&"#222") };
            let dashes = if line.floor { r#" stroke-dasharray="6 5""# } else { "" };
            let place = |point: &(f64, f64)| format!("{:.1},{:.1}", x.at(point.0), y.at(point.1));
            let places: Vec<String> = line.points.iter().map(place).collect();
            writeln!(
                svg,
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>"#,
                places.join(" ")
            )
            .unwrap();
            if !line.floor {
                for (at, value) in &line.points {
                    let (at, value) = (x.at(*at), y.at(*value));
                    writeln!(svg, r#"<circle cx="{at:.1}" cy="{value:.1}" r="3" fill="{colour}"/>"#).unwrap();
                }
            }
            if let Some(end) = line.points.last() {
                labels.push((y.at(end.1), colour, &line.label));
            }
        }
        for (at, colour, label) in spread(labels) {
            let text = at + 4.5;
            writeln!(svg, r#"<text x="{:.1}" y="{text:.1}" fill="{colour}">{label}</text>"#, RIGHT + 10.0).unwrap();
        }
    }
}

/// Moves labels apart that would cover each other.
fn spread<'a>(mut labels: Vec<(f64, &'a str, &'a str)>) -> Vec<(f64, &'a str, &'a str)> {
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    for i in 1..labels.len() {
        labels[i].0 = labels[i].0.max(labels[i - 1].0 + LABEL);
    }
    if let Some(last) = labels.last_mut() {
        last.0 = last.0.min(BOTTOM);
    }
    for i in (1..labels.len()).rev() {
        labels[i - 1].0 = labels[i - 1].0.min(labels[i].0 - LABEL);
    }
    labels
}

fn tick_label(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 0.9999e-6 => (s * 1e9, "ns"),
        s if s < 0.9999e-3 => (s * 1e6, "µs"),
        s if s < 0.9999 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{value:.0} {unit}")
}
