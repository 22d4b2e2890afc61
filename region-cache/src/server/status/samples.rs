//! What the page shows over time, and of the other members.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chart::{Line, chart};

/// Between two samples.
pub(in crate::server) const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Samples that are kept: an hour.
const SAMPLES_MAX: usize = 360;
/// How long another member may take to answer.
const PEER_WAIT: Duration = Duration::from_secs(2);
/// Longest answer of another member that is read, in bytes.
const PEER_BYTES_MAX: u64 = 1 << 20;

/// Bytes served so far: all, and those that came from the origin.
pub(in crate::server) type Served = (u64, u64);

/// The other members, and a client that asks them.
#[derive(Debug)]
pub(in crate::server) struct Peers {
    addresses: Vec<String>,
    http: reqwest::Client,
}

impl Peers {
    /// Asks `addresses`, each `HOST:PORT`.
    pub(in crate::server) fn new(addresses: Vec<String>) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(PEER_WAIT).no_proxy();
        Ok(Self {
            addresses,
            http: http.build()?,
        })
    }

    /// Returns the bytes that each member served so far; `None` for one that does not answer.
    async fn served(&self) -> Vec<(String, Option<u64>)> {
        let asked = self.addresses.iter().map(|address| async {
            let served = self.ask(address).await;
            (address.clone(), served)
        });
        futures::future::join_all(asked).await
    }

    async fn ask(&self, address: &str) -> Option<u64> {
        let url = format!("http://{address}/metrics");
        let response = self.http.get(url).send().await.ok()?;
        let length = response.content_length()?;
        if !response.status().is_success() || length > PEER_BYTES_MAX {
            return None;
        }
        Some(bytes_total(&response.text().await.ok()?))
    }
}

/// Sums up what a page of metrics says of bytes served.
fn bytes_total(metrics: &str) -> u64 {
    metrics
        .lines()
        .filter(|line| line.starts_with("nacre_region_bytes_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

/// The samples.
#[derive(Debug, Default)]
pub(in crate::server) struct Samples(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    before: Served,
    /// Of each sample the bytes since the one before.
    recent: VecDeque<Served>,
    members: Vec<(String, Option<u64>)>,
}

impl Samples {
    /// Takes a sample of this member, and of the others.
    pub(in crate::server) async fn take(&self, served: Served, peers: &Peers) {
        let mut members = peers.served().await;
        if !members.is_empty() {
            members.insert(0, ("this one".to_owned(), Some(served.0)));
        }
        let mut state = self.state();
        let (all, origin) = state.before;
        let since = (
            served.0.saturating_sub(all),
            served.1.saturating_sub(origin),
        );
        state.before = served;
        state.members = members;
        state.recent.push_back(since);
        if state.recent.len() > SAMPLES_MAX {
            let _oldest = state.recent.pop_front();
        }
    }

    /// Draws the part of the bytes that needed no origin.
    pub(super) fn hit_ratio(&self) -> String {
        let state = self.state();
        let missing = SAMPLES_MAX - state.recent.len();
        let point = |(index, (all, origin)): (usize, &Served)| {
            let at = (missing + index + 1) as f64 / SAMPLES_MAX as f64;
            let hits = 1.0 - *origin as f64 / *all as f64;
            (*all > 0).then_some((at, hits.clamp(0.0, 1.0)))
        };
        let points = state.recent.iter().enumerate().filter_map(point).collect();
        drop(state);
        let line = Line {
            name: "hits",
            colour: "#009e73",
            points,
        };
        let marks = [(0.0, "-60 min"), (0.5, "-30 min"), (0.97, "now")];
        chart(&[line], &marks.map(|(at, text)| (at, text.to_owned())))
    }

    /// Returns each member's part of all bytes served, as far as it answers.
    pub(super) fn shares(&self) -> Vec<(String, Option<f64>)> {
        let state = self.state();
        let total: f64 = state
            .members
            .iter()
            .filter_map(|(_, bytes)| *bytes)
            .map(|b| b as f64)
            .sum();
        let share = |bytes: u64| bytes as f64 / total.max(1.0);
        let members = state.members.iter();
        members
            .map(|(name, bytes)| (name.clone(), bytes.map(share)))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_all_tiers_are_summed_up() {
        let page = "# HELP nacre_region_bytes_total x\n\
                    nacre_region_bytes_total{tier=\"memory\"} 5\n\
                    nacre_region_bytes_total{tier=\"disk\"} 7\n\
                    nacre_region_bytes_total{tier=\"origin\"} what\n\
                    nacre_region_reads_total{tier=\"disk\"} 9\n";
        assert_eq!(bytes_total(page), 12);
    }

    #[tokio::test]
    async fn samples_are_bounded_and_tell_what_was_since() {
        let samples = Samples::default();
        let peers = Peers::new(Vec::new()).unwrap();
        for number in 1..=400 {
            samples.take((number * 10, number), &peers).await;
        }
        let state = samples.state();
        assert_eq!(state.recent.len(), SAMPLES_MAX);
        assert!(state.recent.iter().all(|since| *since == (10, 1)));
    }
}
