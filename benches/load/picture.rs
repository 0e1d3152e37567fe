//! The histograms as one SVG picture: a panel a case, latency on a logarithmic axis, the floor grey, the broker blue.

use std::fmt::Write as _;

use crate::report::together;
use crate::series::{Case, Histogram, Round, Sample};

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 210.0;
const MARGIN: f64 = 46.0;

/// Name, colour, and which of a round's two samples it is.
type Line = (&'static str, &'static str, fn(&Round) -> &Sample);

const LINES: [Line; 2] =
    [("tonic echo", "#8a8f98", |round| &round.floor), ("token-broker", "#1f6feb", |round| &round.ours)];

/// The picture, two panels a row.
pub(crate) fn histograms(cases: &[(Case, Vec<Round>)]) -> String {
    let rows = cases.len().div_ceil(2) as f64;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
"#,
        2.0 * WIDTH,
        rows * HEIGHT,
    );
    for (at, (case, rounds)) in cases.iter().enumerate() {
        let (x, y) = ((at % 2) as f64 * WIDTH, (at / 2) as f64 * HEIGHT);
        // Writing into a String cannot fail.
        let _ = writeln!(svg, r#"<g transform="translate({x} {y})">{}</g>"#, panel(case, rounds));
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(case: &Case, rounds: &[Round]) -> String {
    let series = LINES.map(|(name, colour, of)| (name, colour, together(rounds, of)));
    let shares: Vec<(f64, f64)> = series.iter().flat_map(|(.., histogram)| histogram.shares()).collect();
    // A tail of one call in ten thousand would squeeze the picture; it is in the JSON.
    let seen = || shares.iter().filter(|(_, share)| *share > 1e-4).map(|(micros, _)| *micros);
    let scale = Scale {
        left: seen().fold(f64::INFINITY, f64::min).log2() - 0.25,
        right: seen().fold(1.0, f64::max).log2() + 0.5,
        top: shares.iter().map(|(_, share)| *share).fold(f64::MIN_POSITIVE, f64::max),
    };
    let mut svg = format!(
        r##"<text x="{MARGIN}" y="18" font-weight="bold">{}</text>
<line x1="{MARGIN}" x2="{}" y1="{bottom}" y2="{bottom}" stroke="#333"/>"##,
        case.name(),
        WIDTH - 16.0,
        bottom = HEIGHT - 30.0,
    );
    for tick in ticks(&scale) {
        let x = scale.x(tick);
        let label = if tick < 1000.0 { format!("{tick} µs") } else { format!("{} ms", tick / 1000.0) };
        let _ = write!(
            svg,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="26" y2="{bottom}" stroke="#e4e6ea"/><text x="{x:.1}" y="{}" text-anchor="middle" fill="#555">{label}</text>"##,
            HEIGHT - 14.0,
            bottom = HEIGHT - 30.0,
        );
    }
    for (at, (name, colour, histogram)) in series.iter().enumerate() {
        let _ = write!(
            svg,
            r#"<path d="{}" fill="{colour}" fill-opacity="0.15" stroke="{colour}" stroke-width="1.5"/><text x="{}" y="{}" text-anchor="end" fill="{colour}">{name}</text>"#,
            outline(histogram, &scale),
            WIDTH - 16.0,
            18.0 + 14.0 * at as f64,
        );
    }
    svg
}

struct Scale {
    /// Ends of the axis, as logarithms of microseconds to base 2.
    left: f64,
    right: f64,
    /// The largest share.
    top: f64,
}

impl Scale {
    fn x(&self, micros: f64) -> f64 {
        MARGIN + (micros.log2() - self.left) / (self.right - self.left) * (WIDTH - MARGIN - 16.0)
    }

    fn y(&self, share: f64) -> f64 {
        HEIGHT - 30.0 - share / self.top * (HEIGHT - 60.0)
    }
}

/// 1, 2, 5, 10 … microseconds, as far as they are on the axis.
fn ticks(scale: &Scale) -> Vec<f64> {
    let decades = (0..7).map(|decade| 10_f64.powi(decade));
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * decade));
    all.filter(|tick| (scale.left..=scale.right).contains(&tick.log2())).collect()
}

/// Steps along the buckets, closed at the bottom.
fn outline(histogram: &Histogram, scale: &Scale) -> String {
    let shares = histogram.shares();
    let mut path = String::new();
    let mut last = MARGIN;
    for (micros, share) in &shares {
        let x = scale.x(*micros).clamp(MARGIN, WIDTH - 16.0);
        if path.is_empty() {
            let _ = write!(path, "M{x:.1} {:.1}", scale.y(0.0));
        }
        let _ = write!(path, "H{x:.1}V{:.1}", scale.y(*share));
        last = x;
    }
    let _ = write!(path, "H{:.1}V{:.1}Z", (last + 4.0).min(WIDTH - 16.0), scale.y(0.0));
    path
}
