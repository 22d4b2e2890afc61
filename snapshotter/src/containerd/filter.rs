//! The filters of `List`, in the syntax of containerd's package `filters`:
//!
//! ```text
//! filter   := selector ("," selector)*                      all must match
//! selector := path [("==" | "!=" | "~=") value]             without a value: is there
//! path     := field ("." field)*      field := quoted | [A-Za-z0-9_]+
//! value    := quoted | what has no comma and no space       quoted := "..." (after ~= also /.../ and |...|)
//! ```
//! Of several filters one must match.

mod scan;

use regex::{Regex, RegexBuilder};

use super::error::SnapshotsError;
use super::record::Snapshot;
use scan::Scanner;

/// Most filters in a request, and most bytes of one.
const FILTERS_MAX: usize = 1024;
const FILTER_BYTES_MAX: usize = 64 << 10;
/// Most bytes that the program of a regular expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// What to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// What no snapshot has.
    Unknown,
}

#[derive(Debug, Clone)]
enum Operator {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Debug, Clone)]
struct Selector {
    field: Field,
    operator: Operator,
}

/// A filter: all of its selectors must match.
#[derive(Debug, Clone)]
pub(super) struct Filter(Vec<Selector>);

/// Where snapshots that match can be found without a look at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrowed<'a> {
    /// Only the one of this name.
    Name(&'a str),
    /// Only the children of this one.
    Parent(&'a str),
    /// Anywhere.
    All,
}

impl Filter {
    /// Reads the filters of a request.
    pub(super) fn parse_all(texts: &[String]) -> Result<Vec<Self>, SnapshotsError> {
        if texts.len() > FILTERS_MAX {
            return Err(invalid("", "too many filters"));
        }
        texts.iter().map(|text| Self::parse(text)).collect()
    }

    fn parse(text: &str) -> Result<Self, SnapshotsError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(invalid("", "too long"));
        }
        let mut selectors = Vec::new();
        // An empty one matches all.
        if text.is_empty() {
            return Ok(Self(selectors));
        }
        let mut scanner = Scanner::new(text);
        loop {
            let path = scanner.path().map_err(|reason| invalid(text, reason))?;
            let (operator, value) = scanner
                .comparison()
                .map_err(|reason| invalid(text, reason))?;
            let operator = match operator {
                scan::Operator::Present => Operator::Present,
                scan::Operator::Equal => Operator::Equal(value),
                scan::Operator::NotEqual => Operator::NotEqual(value),
                scan::Operator::Matches => {
                    let regex = RegexBuilder::new(&value)
                        .size_limit(REGEX_BYTES_MAX)
                        .build();
                    Operator::Matches(regex.map_err(|error| invalid(text, &error.to_string()))?)
                }
            };
            let field = field(&path);
            selectors.push(Selector { field, operator });
            if !scanner.next_selector().map_err(|r| invalid(text, r))? {
                return Ok(Self(selectors));
            }
        }
    }

    /// Tells whether a snapshot matches.
    pub(super) fn matches(&self, snapshot: &Snapshot) -> bool {
        self.0.iter().all(|selector| selector.matches(snapshot))
    }

    /// Tells where matches are.
    pub(super) fn narrowed(&self) -> Narrowed<'_> {
        let mut narrowed = Narrowed::All;
        for selector in &self.0 {
            match (&selector.field, &selector.operator) {
                (Field::Name, Operator::Equal(name)) => return Narrowed::Name(name),
                (Field::Parent, Operator::Equal(parent)) => narrowed = Narrowed::Parent(parent),
                _ => {}
            }
        }
        narrowed
    }
}

impl Selector {
    fn matches(&self, snapshot: &Snapshot) -> bool {
        let value = match &self.field {
            Field::Name => Some(snapshot.name.as_str()),
            Field::Parent => Some(snapshot.parent.as_str()),
            Field::Kind => Some(snapshot.kind.name()),
            Field::Label(key) => snapshot.labels.get(key).map(String::as_str),
            Field::Unknown => None,
        };
        match &self.operator {
            Operator::Present => value.is_some(),
            Operator::Equal(wanted) => value == Some(wanted),
            // What is not there is not equal, too.
            Operator::NotEqual(unwanted) => value.unwrap_or("") != unwanted,
            Operator::Matches(regex) => regex.is_match(value.unwrap_or("")),
        }
    }
}

fn field(path: &[String]) -> Field {
    match path {
        [name] if name == "name" => Field::Name,
        [name] if name == "parent" => Field::Parent,
        [name] if name == "kind" => Field::Kind,
        [labels, key @ ..] if labels == "labels" && !key.is_empty() => Field::Label(key.join(".")),
        _ => Field::Unknown,
    }
}

fn invalid(text: &str, reason: &str) -> SnapshotsError {
    let start: String = text.chars().take(256).collect();
    SnapshotsError::Invalid(format!("filter {start:?}: {reason}"))
}

#[cfg(test)]
mod tests;
