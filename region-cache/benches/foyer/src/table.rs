//! Medians of what was measured, as Markdown.

use std::fmt;

pub(crate) struct Table {
    caches: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    /// Of each cache, all that was measured.
    figures: Vec<Vec<f64>>,
}

impl Table {
    pub(crate) fn new(caches: &[&str]) -> Self {
        Self {
            caches: caches.iter().map(|&cache| cache.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a figure of a cache to those of the row `name`.
    pub(crate) fn add(&mut self, cache: &str, name: &str, figure: f64) {
        let column = self.caches.iter().position(|known| known == cache).unwrap();
        let row = self.rows.iter().position(|row| row.name == name);
        let row = row.unwrap_or_else(|| {
            self.rows.push(Row {
                name: name.to_owned(),
                figures: vec![Vec::new(); self.caches.len()],
            });
            self.rows.len() - 1
        });
        self.rows[row].figures[column].push(figure);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | {} |", self.caches.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(self.caches.len()))?;
        for row in &self.rows {
            let medians = row.figures.iter().map(|figures| median(figures));
            let cells: Vec<String> = medians.map(short).collect();
            writeln!(f, "| {} | {} |", row.name, cells.join(" | "))?;
        }
        Ok(())
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

fn short(figure: f64) -> String {
    match figure {
        ..10.0 => format!("{figure:.2}"),
        ..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}
