//! Notices when a burst of an image begins: several nodes ask for its record within seconds.
//!
//! A member knows neither what starts of an image read nor what other members have, so it tells one
//! of the nodes, which asks for the rest ahead of all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nacre_blobstore::Digest;

use super::fair::ClientId;

/// Nodes that make a burst: more than half of all images never have so many.
const NODES: usize = 4;
/// Within which time they must have come.
const WINDOW: Duration = Duration::from_secs(10);
/// How long a burst is not told of again.
const QUIET: Duration = Duration::from_secs(600);
/// Records that are watched, by some 200 bytes each; of more the oldest is forgotten.
const RECORDS_MAX: usize = 1024;

/// The records that were asked for lately.
#[derive(Debug, Default)]
pub(super) struct Bursts(Mutex<HashMap<Digest, Watched>>);

#[derive(Debug)]
struct Watched {
    since: Duration,
    /// Those that asked since then; [`NODES`] once they were told of.
    nodes: Vec<ClientId>,
}

impl Watched {
    fn is_over(&self, now: Duration) -> bool {
        let lasts = if self.nodes.len() == NODES {
            QUIET
        } else {
            WINDOW
        };
        now.saturating_sub(self.since) > lasts
    }
}

impl Bursts {
    /// Counts a node that asks for a record. Tells, once for each burst, whether it is the one that
    /// makes it a burst.
    pub(super) fn begins(&self, record: Digest, node: &ClientId, now: Duration) -> bool {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == RECORDS_MAX
            && !records.contains_key(&record)
            && let Some(oldest) = records.iter().min_by_key(|(_, watched)| watched.since)
        {
            let oldest = *oldest.0;
            drop(records.remove(&oldest));
        }
        let fresh = || Watched {
            since: now,
            nodes: Vec::new(),
        };
        let watched = records.entry(record).or_insert_with(fresh);
        if watched.is_over(now) {
            *watched = fresh();
        }
        if watched.nodes.len() == NODES || watched.nodes.contains(node) {
            return false;
        }
        watched.nodes.push(Arc::clone(node));
        watched.nodes.len() == NODES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bursts: &Bursts, record: u64, node: u64, second: u64) -> bool {
        let record = Digest::of(&record.to_le_bytes());
        bursts.begins(
            record,
            &node.to_string().into(),
            Duration::from_secs(second),
        )
    }

    #[test]
    fn one_node_of_a_burst_is_told() {
        let bursts = Bursts::default();
        let told: Vec<u64> = (0..100)
            .filter(|node| at(&bursts, 1, *node, node / 10))
            .collect();
        assert_eq!(told, [NODES as u64 - 1]);
        // The next burst of the image is another one.
        let later = (QUIET + WINDOW).as_secs() + 1;
        let told = (0..100).filter(|node| at(&bursts, 1, *node, later));
        assert_eq!(told.count(), 1);
    }

    #[test]
    fn a_node_that_asks_often_and_nodes_that_come_now_and_then_are_none() {
        let bursts = Bursts::default();
        assert!((0..100).all(|_| !at(&bursts, 1, 7, 0)));
        let apart = WINDOW.as_secs() / 2;
        assert!((0..100).all(|node| !at(&bursts, 2, node, node * apart)));
        assert!((0..100).all(|record| !at(&bursts, 100 + record, record, 0)));
    }

    #[test]
    fn the_records_that_are_watched_are_bounded() {
        let bursts = Bursts::default();
        let many = RECORDS_MAX as u64 + 10;
        for record in 0..many {
            at(&bursts, record, 1, record);
        }
        assert_eq!(bursts.0.lock().unwrap().len(), RECORDS_MAX);
        // The last of them are.
        let told = (2..10).filter(|node| at(&bursts, many - 1, *node, many));
        assert_eq!(told.count(), 1);
    }
}
