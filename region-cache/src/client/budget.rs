//! How much extra load may be made: some per cent of the requests, and a small reserve.

use std::sync::atomic::{AtomicU64, Ordering};

/// Parts of a token; a request earns some of them.
const TOKEN: u64 = 100;

/// Tokens that requests earn and extra requests spend. Needs no clock: when nothing is asked,
/// nothing is wasted.
#[derive(Debug)]
pub(crate) struct Budget {
    percent: u64,
    full: u64,
    parts: AtomicU64,
}

impl Budget {
    /// Allows `percent` extra requests for every 100, and `reserve` at any one time.
    pub(crate) const fn new(percent: u64, reserve: u64) -> Self {
        let full = reserve * TOKEN;
        Self {
            percent,
            full,
            parts: AtomicU64::new(full),
        }
    }

    /// Notes a request.
    pub(crate) fn earn(&self) {
        let earn = |parts: u64| Some((parts + self.percent).min(self.full));
        // It never refuses.
        self.parts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn)
            .unwrap_or_default();
    }

    /// Spends a token, if there is one.
    pub(crate) fn spend(&self) -> bool {
        let spend = |parts: u64| parts.checked_sub(TOKEN);
        self.parts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_requests_are_a_share_of_all() {
        let budget = Budget::new(5, 4);
        let spent = |times: u32| (0..times).filter(|_| budget.spend()).count();
        assert_eq!(spent(10), 4, "the reserve");
        (0..19).for_each(|_| budget.earn());
        assert_eq!(spent(10), 0);
        budget.earn();
        assert_eq!(spent(10), 1);
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!(spent(10), 4, "no more than the reserve is saved");
    }
}
