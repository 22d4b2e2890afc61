//! How long answers take: the 95th percentile of the latest.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Answers that are remembered.
const ANSWERS: usize = 128;
/// Answers from which on the percentile says something.
const ANSWERS_MIN: usize = 32;
/// After so many answers it is computed anew.
const REFRESH: usize = 16;

/// The latest answers' times.
#[derive(Debug, Default)]
pub(crate) struct Latency(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    answers: Vec<Duration>,
    next: usize,
    p95: Option<Duration>,
}

impl Latency {
    /// Notes an answer.
    pub(crate) fn note(&self, took: Duration) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = window.next;
        match window.answers.get_mut(next % ANSWERS) {
            Some(oldest) => *oldest = took,
            None => window.answers.push(took),
        }
        window.next = next + 1;
        if window.answers.len() >= ANSWERS_MIN && next.is_multiple_of(REFRESH) {
            let mut sorted = window.answers.clone();
            let rank = sorted.len() * 95 / 100;
            window.p95 = Some(*sorted.select_nth_unstable(rank).1);
        }
    }

    /// Returns the time that 95 of 100 answers stay below; `None` before there were enough.
    pub(crate) fn p95(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).p95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_follows_the_latest_answers() {
        let latency = Latency::default();
        let ms = Duration::from_millis;
        (0..ANSWERS_MIN as u64).for_each(|n| latency.note(ms(n)));
        assert_eq!(latency.p95(), None);
        (0..ANSWERS as u64).for_each(|n| latency.note(ms(n)));
        let p95 = latency.p95().unwrap();
        assert!((ms(100)..ms(128)).contains(&p95), "{p95:?}");
        (0..ANSWERS + REFRESH).for_each(|_| latency.note(ms(3)));
        assert_eq!(latency.p95(), Some(ms(3)));
    }
}
