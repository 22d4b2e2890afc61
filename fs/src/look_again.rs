//! Taking overlays off the gate once what it served them is on the node.
//!
//! A large file that was opened before its content was complete is served by FUSE for as long as
//! overlayfs knows its inode, and costs more than a native one: the kernel has no large folios there.
//! So when such contents have become complete, overlays are made to [forget](forget_unused) what they
//! do not use. At its next open a file is found in the store, and is a plain one of the local disk. One
//! that is open or mapped stays where it is, until they look again for another one.
//!
//! Which overlay has which content is not known here, so all that have the gate among their layers
//! are asked, each after pauses that double: what an overlay may cost is the logarithm of its life.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nacre_blobstore::Clock;

use crate::NodeCache;
use crate::mount::{MountError, Overlay, forget_unused, overlays, shown};

/// How long nothing has become complete before overlays look again: a start is over then.
const QUIET: Duration = Duration::from_secs(3);
/// How long they wait for that.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long an overlay is left alone after its first time. Doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// Makes the overlays of this mount namespace look again.
#[derive(Debug)]
pub struct LookAgain {
    cache: Weak<NodeCache>,
    clock: Arc<dyn Clock>,
    /// The gate among the layers of an overlay, as the kernel shows it.
    layer: String,
    plan: Plan,
}

impl LookAgain {
    /// How often [`Self::run`] should be called; it does nothing when there is nothing to do.
    pub const PERIOD: Duration = Duration::from_secs(1);

    /// For overlays that have the folder `gate`, below which `cache` is served, among their layers.
    /// `None` when its path has what the kernel escapes: their files stay at the gate.
    pub fn new(cache: &Arc<NodeCache>, gate: &Path, clock: Arc<dyn Clock>) -> Option<Self> {
        Some(Self {
            cache: Arc::downgrade(cache),
            clock,
            layer: format!("::{}::", shown(gate)?),
            plan: Plan::default(),
        })
    }

    /// Makes those overlays look again for which it is time. Blocks for some microseconds for each
    /// name that one forgets.
    ///
    /// # Errors
    /// [`MountError::Mountinfo`]; that an overlay does not look again is none.
    pub fn run(&mut self) -> Result<(), MountError> {
        let now = self.clock.elapsed();
        let cache = self.cache.upgrade();
        if !cache.is_some_and(|cache| self.plan.is_due(cache.completed_at_gate(), now)) {
            return Ok(());
        }
        let mut overlays = overlays()?;
        overlays.retain(|overlay| overlay.options.contains(&self.layer));
        for overlay in self.plan.pick(overlays, now) {
            match forget_unused(&overlay) {
                Ok(()) => tracing::debug!(target = %overlay.target.display(), "look again"),
                Err(error) => tracing::debug!(%error, "leave an overlay at the gate"),
            }
        }
        Ok(())
    }
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Plan {
    /// Contents that have become complete, the last time that was asked.
    completed: u64,
    /// When the first and the last of those became so of which overlays do not know.
    news: Option<(Duration, Duration)>,
    overlays: HashMap<u64, Turn>,
    /// When the first overlay may look again that still has to.
    next_at: Option<Duration>,
}

/// One overlay's.
#[derive(Debug)]
struct Turn {
    is_owed: bool,
    at: Duration,
    pause: Duration,
}

impl Plan {
    /// Tells whether it may be anybody's turn, when so many contents have become complete.
    fn is_due(&mut self, completed: u64, now: Duration) -> bool {
        if self.completed != completed {
            self.completed = completed;
            let first = self.news.map_or(now, |(first, _)| first);
            self.news = Some((first, now));
        }
        self.is_quiet(now) || self.next_at.is_some_and(|at| at <= now)
    }

    fn is_quiet(&self, now: Duration) -> bool {
        self.news
            .is_some_and(|(first, last)| now >= last + QUIET || now >= first + QUIET_WAIT_MAX)
    }

    /// Returns those of all overlays whose turn it is.
    fn pick(&mut self, mut overlays: Vec<Overlay>, now: Duration) -> Vec<Overlay> {
        let has_news = self.is_quiet(now);
        if has_news {
            self.news = None;
        }
        let there: HashSet<u64> = overlays.iter().map(|overlay| overlay.device).collect();
        self.overlays.retain(|device, _| there.contains(device));
        overlays.retain(|overlay| {
            let turn = self.overlays.entry(overlay.device).or_insert(Turn {
                is_owed: false,
                at: now,
                pause: FIRST_PAUSE,
            });
            turn.is_owed |= has_news;
            let is_now = turn.is_owed && turn.at <= now;
            if is_now {
                *turn = Turn {
                    is_owed: false,
                    at: now + turn.pause,
                    pause: turn.pause * 2,
                };
            }
            is_now
        });
        let owed = self.overlays.values().filter(|turn| turn.is_owed);
        self.next_at = owed.map(|turn| turn.at).min();
        overlays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Returns the overlays that look again at each second, of those with the numbers `there`.
    fn turns(
        plan: &mut Plan,
        completed: u64,
        there: &[u64],
        times: std::ops::Range<u64>,
    ) -> Vec<(u64, u64)> {
        let overlay = |device: &u64| Overlay {
            device: *device,
            target: "/".into(),
            options: String::new(),
        };
        let mut turns = Vec::new();
        for second in times {
            if plan.is_due(completed, seconds(second)) {
                let picked = plan.pick(there.iter().map(overlay).collect(), seconds(second));
                turns.extend(picked.iter().map(|overlay| (second, overlay.device)));
            }
        }
        turns
    }

    #[test]
    fn overlays_look_again_once_it_is_quiet_and_after_pauses_that_double() {
        let mut plan = Plan::default();
        assert_eq!(turns(&mut plan, 0, &[1], 0..100), []);
        assert_eq!(turns(&mut plan, 1, &[1], 100..102), []);
        assert_eq!(turns(&mut plan, 2, &[1], 102..110), [(105, 1)]);
        // The first one's pause; the other one has had none.
        assert_eq!(turns(&mut plan, 3, &[1, 2], 110..200), [(113, 2), (115, 1)]);
        assert_eq!(turns(&mut plan, 4, &[1, 2], 200..210), [(203, 1), (203, 2)]);
        assert_eq!(turns(&mut plan, 5, &[1, 2], 210..300), [(223, 2), (243, 1)]);
        // What is gone is forgotten, and one with its number begins anew.
        assert_eq!(turns(&mut plan, 6, &[2], 300..310), [(303, 2)]);
        assert_eq!(turns(&mut plan, 7, &[1, 2], 310..330), [(313, 1)]);
    }

    #[test]
    fn overlays_look_again_also_where_it_is_never_quiet() {
        let mut plan = Plan::default();
        let mut all = Vec::new();
        for second in 0..100 {
            all.extend(turns(&mut plan, second, &[1], second..second + 1));
        }
        let times: Vec<_> = all.iter().map(|(second, _)| *second).collect();
        assert_eq!(times, [31, 62, 93]);
    }
}
