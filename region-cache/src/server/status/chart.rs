//! Lines over two axes, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 44.0;
const BOTTOM: f64 = 24.0;

/// One line of a chart; both coordinates are between 0 and 1.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) colour: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// Draws lines over an axis with marks and an axis of percent.
pub(super) fn chart(lines: &[Line], marks: &[(f64, String)]) -> String {
    let x = |at: f64| LEFT + at * (WIDTH - LEFT - 8.0);
    let y = |at: f64| 8.0 + (1.0 - at) * (HEIGHT - BOTTOM - 8.0);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" \
         font-size=\"11\" fill=\"currentColor\">"
    );
    let mut add = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).unwrap_or_default();
    for percent in [0, 50, 100] {
        let at = y(f64::from(percent) / 100.0);
        add(format_args!(
            "<text x=\"2\" y=\"{:.0}\">{percent} %</text><path d=\"M{LEFT} {at:.1}H{WIDTH}\" \
             stroke=\"currentColor\" opacity=\".2\"/>",
            at + 4.0
        ));
    }
    for (at, text) in marks {
        add(format_args!(
            "<text x=\"{:.0}\" y=\"{HEIGHT}\" text-anchor=\"middle\">{text}</text>",
            x(*at)
        ));
    }
    for (number, line) in lines.iter().enumerate() {
        let mut path = String::new();
        for (index, (at, value)) in line.points.iter().enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            write!(path, "{letter}{:.1} {:.1}", x(*at), y(*value)).unwrap_or_default();
        }
        if !path.is_empty() {
            // So that a single point is a dot.
            path.push_str("h0");
        }
        let (colour, name) = (line.colour, line.name);
        add(format_args!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"3\" \
             stroke-linecap=\"round\"/>\
             <text x=\"{:.0}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            WIDTH - 60.0,
            HEIGHT - BOTTOM - 10.0 - 14.0 * number as f64
        ));
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_point_is_drawn_and_no_point_is_not() {
        let drawn = |points: &[(f64, f64)]| {
            let line = Line {
                name: "hits",
                colour: "#009e73",
                points: points.to_vec(),
            };
            let svg = chart(&[line], &[]);
            let path = svg.rsplit("<path d=\"").next().unwrap();
            path.split('"').next().unwrap().to_owned()
        };
        assert_eq!(drawn(&[]), "");
        assert_eq!(drawn(&[(0.0, 0.0)]), "M44.0 156.0h0");
        assert_eq!(drawn(&[(0.0, 0.0), (1.0, 1.0)]), "M44.0 156.0L712.0 8.0h0");
    }
}
