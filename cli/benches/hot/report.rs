//! Medians, as a table, as JSON and as a picture.

use std::collections::BTreeMap;
use std::fmt::{Arguments, Write as _};

use crate::operations::{OPERATIONS, Operation};

/// Appends to a text.
fn add(text: &mut String, arguments: Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("a String takes everything");
}

/// Rates by operation and mount.
pub(crate) struct Report {
    labels: Vec<String>,
    rates: BTreeMap<(&'static str, usize), Vec<f64>>,
}

impl Report {
    pub(crate) fn new(labels: Vec<String>) -> Self {
        Self {
            labels,
            rates: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, operation: &Operation, mount: usize, rate: f64) {
        self.rates
            .entry((operation.name, mount))
            .or_default()
            .push(rate);
    }

    fn median(&self, operation: &Operation, mount: usize) -> f64 {
        let mut rates = self
            .rates
            .get(&(operation.name, mount))
            .cloned()
            .unwrap_or_default();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn ratio(&self, operation: &Operation, mount: usize) -> f64 {
        self.median(operation, mount) / self.median(operation, 0)
    }

    /// One row of the table.
    fn line(&self, operation: &Operation) -> String {
        let first = self.median(operation, 0);
        let mut line = format!("| {} | {first:.0} {} |", operation.name, operation.unit);
        for mount in 1..self.labels.len() {
            add(
                &mut line,
                format_args!(" {:.2} |", self.ratio(operation, mount)),
            );
        }
        line
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("| operation |");
        for label in &self.labels {
            add(&mut text, format_args!(" {label} |"));
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(self.labels.len()));
        for operation in OPERATIONS {
            add(&mut text, format_args!("\n{}", self.line(operation)));
        }
        text.push('\n');
        text
    }

    pub(crate) fn json(&self) -> String {
        let operations = OPERATIONS.iter().map(|operation| {
            let medians = (0..self.labels.len()).map(|mount| self.median(operation, mount));
            let value = serde_json::json!({
                "unit": operation.unit,
                "medians": medians.collect::<Vec<_>>(),
            });
            (operation.name.to_owned(), value)
        });
        let operations: serde_json::Map<_, _> = operations.collect();
        serde_json::json!({ "mounts": self.labels, "operations": operations }).to_string()
    }

    /// Draws the ratios as bars, the first mount's as a line.
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    pub(crate) fn svg(&self) -> String {
        const COLOURS: [&str; 4] = ["#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd"];
        const BAR: f64 = 12.0;
        const LEFT: f64 = 250.0;
        const SCALE: f64 = 300.0;
        let bars = self.labels.len().saturating_sub(1);
        let group = BAR * bars as f64 + 14.0;
        let height = group * OPERATIONS.len() as f64 + 60.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for (number, operation) in OPERATIONS.iter().enumerate() {
            let top = group * number as f64 + 40.0;
            let middle = top + group / 2.0 - 3.0;
            let name = operation.name;
            add(
                &mut svg,
                format_args!(
                    "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>",
                    LEFT - 8.0
                ),
            );
            for mount in 1..=bars {
                let ratio = self.ratio(operation, mount);
                let (y, width) = (top + BAR * (mount - 1) as f64, (ratio * SCALE).min(430.0));
                let colour = COLOURS[(mount - 1) % COLOURS.len()];
                add(
                    &mut svg,
                    format_args!(
                        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{ratio:.2}</text>",
                        BAR - 2.0,
                        LEFT + width + 4.0,
                        y + BAR - 3.0
                    ),
                );
            }
        }
        let one = LEFT + SCALE;
        add(
            &mut svg,
            format_args!(
                "<line x1=\"{one}\" y1=\"34\" x2=\"{one}\" y2=\"{}\" stroke=\"black\" stroke-dasharray=\"3\"/>",
                height - 20.0
            ),
        );
        let mut x = LEFT;
        for (number, label) in self.labels.iter().enumerate() {
            let colour = if number == 0 {
                "black"
            } else {
                COLOURS[(number - 1) % COLOURS.len()]
            };
            add(
                &mut svg,
                format_args!("<text x=\"{x}\" y=\"20\" fill=\"{colour}\">{label}</text>"),
            );
            x += 16.0 + 7.0 * label.len() as f64;
        }
        svg.push_str("</svg>\n");
        svg
    }
}
