//! Adding images to the store because containerd pulls them.
//!
//! Done by another process, as by a user: a hostile image can at worst end that. One at a time for
//! an image, whatever asks for it, and not again for a while when that failed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::Stdio;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nacre_blobstore::Clock;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::{OnceCell, Semaphore};

use super::counters::{Counters, count};
use super::error::SnapshotsError;
use super::lazy::Wanted;

/// How long an image may take to be added, while containerd waits.
const ADD_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How long an image that could not be added, or had not the layer, is not tried again.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Images that are being added, or were lately.
const IMAGES_MAX: usize = 256;
/// Layers whose images wait to be added behind answers.
const BEHIND_MAX: usize = 256;
/// Bytes of what the process says of its failure that are kept.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// Which layers are attached instead of being unpacked by containerd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LazyPolicy {
    /// Those of any image that containerd says the name of: what the store has not got is added to it
    /// first, from the registry.
    Always,
    /// Those that are in the store. containerd unpacks the others, and their image is added behind its
    /// back, from the registry, so that the next node attaches them.
    Background,
    /// Those that are in the store.
    #[default]
    IfStored,
    /// None.
    Never,
}

impl FromStr for LazyPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self::Always),
            "background" => Ok(Self::Background),
            "if-stored" => Ok(Self::IfStored),
            "never" => Ok(Self::Never),
            _ => Err(format!(
                "{text:?} is none of always, background, if-stored, never"
            )),
        }
    }
}

impl std::fmt::Display for LazyPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Background => "background",
            Self::IfStored => "if-stored",
            Self::Never => "never",
        })
    }
}

/// One addition: how it ended, and when.
type Addition = OnceCell<(Result<(), SnapshotsError>, Duration)>;

/// Adds images.
#[derive(Debug)]
pub(super) struct Ingester {
    policy: LazyPolicy,
    command: Vec<OsString>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    additions: Mutex<HashMap<String, Arc<Addition>>>,
    /// Of what is added behind answers: one at a time, and so many that wait.
    turn: Semaphore,
    places: Arc<Semaphore>,
}

impl Ingester {
    pub(super) fn new(
        policy: LazyPolicy,
        command: Vec<OsString>,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            policy,
            command,
            clock,
            counters,
            additions: Mutex::default(),
            turn: Semaphore::new(1),
            places: Arc::new(Semaphore::new(BEHIND_MAX)),
        }
    }

    pub(super) const fn policy(&self) -> LazyPolicy {
        self.policy
    }

    /// Adds the image that is pulled, if the policy says so and it is known which that is, and tells
    /// whether that was done or had been done just now.
    pub(super) async fn add(&self, wanted: &Wanted<'_>) -> Result<bool, SnapshotsError> {
        let Some(reference) = wanted
            .reference
            .filter(|_| matches!(self.policy, LazyPolicy::Always | LazyPolicy::Background))
        else {
            return Ok(false);
        };
        // Both come from whoever may talk to containerd; neither may look like a flag.
        let source = match wanted.manifest {
            Some(digest) => format!("docker://{}@{digest}", without_digest(reference)),
            None => format!("docker://{reference}"),
        };
        let Some(addition) = self.addition(&source) else {
            return Err(SnapshotsError::Unavailable(
                "too many images are being added".to_owned(),
            ));
        };
        let ended = addition.get_or_init(|| async {
            let added = tokio::time::timeout(ADD_DEADLINE, self.run(&source, reference)).await;
            let late = || SnapshotsError::Unavailable("adding it takes too long".to_owned());
            let added = added.unwrap_or_else(|_| Err(late()));
            let counted = match &added {
                Ok(()) => &self.counters.ingests,
                Err(_) => &self.counters.ingests_failed,
            };
            count(counted);
            (added, self.clock.elapsed())
        });
        let (added, _) = ended.await;
        added.clone().map(|()| true)
    }

    /// Does the same behind the answer, one image after the other. How it ends is logged and counted; for
    /// who asks when too many wait nothing is done, and the next pull of the image asks again.
    pub(super) fn add_behind(self: &Arc<Self>, wanted: &Wanted<'_>) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::info!(image = wanted.reference, "too many images wait to be added");
            return;
        };
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        let (reference, manifest) = (owned(wanted.reference), owned(wanted.manifest));
        let ingester = Arc::clone(self);
        drop(tokio::spawn(async move {
            let _place = place;
            // Never closed.
            let _turn = ingester.turn.acquire().await.ok();
            let wanted = Wanted {
                reference: reference.as_deref(),
                manifest: manifest.as_deref(),
            };
            drop(ingester.add(&wanted).await);
        }));
    }

    /// Returns the addition of an image that is under way or was a moment ago, or a new one.
    fn addition(&self, source: &str) -> Option<Arc<Addition>> {
        let now = self.clock.elapsed();
        let mut additions = self
            .additions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        additions.retain(|_, addition| {
            let ended = addition.get().map(|(_, ended)| *ended);
            ended.is_none_or(|ended| now.saturating_sub(ended) < RETRY_AFTER)
        });
        if let Some(addition) = additions.get(source) {
            return Some(Arc::clone(addition));
        }
        if additions.len() >= IMAGES_MAX {
            return None;
        }
        let addition = Arc::<Addition>::default();
        additions.insert(source.to_owned(), Arc::clone(&addition));
        Some(addition)
    }

    async fn run(&self, source: &str, name: &str) -> Result<(), SnapshotsError> {
        let fail = |reason: String| {
            tracing::warn!(image = name, reason, "an image is not added to the store");
            SnapshotsError::Unavailable(format!("cannot add image {name:?}: {reason}"))
        };
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(fail("this daemon does not add images".to_owned()));
        };
        tracing::info!(image = name, "add an image to the store");
        let child = Command::new(program)
            .args(arguments)
            .args(["--name", name, "--", source])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| fail(error.to_string()))?;
        let mut complaint = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            let mut stderr = stderr.take(COMPLAINT_BYTES_MAX);
            let read = stderr.read_to_end(&mut complaint).await;
            read.map_err(|error| fail(error.to_string()))?;
            // A process that says more must not wait for a reader.
            let mut rest = stderr.into_inner();
            drop(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await);
        }
        let status = child
            .wait()
            .await
            .map_err(|error| fail(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let line = complaint.lines().next().unwrap_or("it says nothing");
        Err(fail(format!("{status}: {line}")))
    }
}

/// Takes `@sha256:...` off a reference.
fn without_digest(reference: &str) -> &str {
    reference
        .split_once('@')
        .map_or(reference, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nacre_blobstore::SystemClock;

    use super::*;

    /// A clock that is set by hand, in seconds.
    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    #[async_trait::async_trait]
    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            0
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }

        async fn sleep(&self, _: Duration) {}
    }

    fn ingester(policy: LazyPolicy, clock: &Arc<Hand>, script: &str) -> Ingester {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        Ingester::new(policy, command, Arc::clone(clock) as _, Arc::default())
    }

    const WANTED: Wanted<'_> = Wanted {
        reference: Some("host/app:v1"),
        manifest: None,
    };

    #[tokio::test]
    async fn an_image_that_was_slow_to_fail_is_not_tried_again_for_its_next_layer() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        let clock = Arc::<Hand>::default();
        let script = format!("cat {}; false", pipe.display());
        let ingester = ingester(LazyPolicy::Always, &clock, &script);
        let failed = async || {
            let refused = ingester.add(&WANTED).await;
            assert!(matches!(refused, Err(SnapshotsError::Unavailable(_))));
            ingester.counters.stats().images_add_failed
        };
        let minutes_pass = async {
            // Opened as soon as the other process reads, which ends when it is closed.
            let opened = tokio::fs::File::options().write(true).open(&pipe).await;
            clock.0.fetch_add(600, Ordering::Relaxed);
            drop(opened.unwrap());
            std::fs::remove_file(&pipe).unwrap();
        };
        assert_eq!(tokio::join!(failed(), minutes_pass).0, 1);
        assert_eq!(failed().await, 1, "as said a moment ago");
        clock.0.fetch_add(RETRY_AFTER.as_secs(), Ordering::Relaxed);
        assert_eq!(failed().await, 2);
    }

    #[tokio::test]
    async fn only_images_that_are_named_are_added_and_only_if_told() {
        for (policy, wanted, added) in [
            (LazyPolicy::Always, WANTED, true),
            (LazyPolicy::Always, Wanted::default(), false),
            (LazyPolicy::IfStored, WANTED, false),
            (LazyPolicy::Never, WANTED, false),
        ] {
            let ingester = ingester(policy, &Arc::default(), "true");
            assert_eq!(ingester.add(&wanted).await.unwrap(), added);
            assert_eq!(ingester.counters.stats().images_added, u64::from(added));
        }
    }

    fn logging(policy: LazyPolicy, log: &std::path::Path) -> Arc<Ingester> {
        let script = format!("echo \"$@\" >> {}", log.display());
        let command = ["sh", "-c", &script, "sh"].map(OsString::from);
        let clock = Arc::new(SystemClock::new());
        Arc::new(Ingester::new(policy, command.into(), clock, Arc::default()))
    }

    #[tokio::test]
    async fn what_is_added_behind_an_answer_is_added_once() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("log");
        let wanted = |reference| Wanted {
            reference: Some(reference),
            manifest: Some("sha256:1"),
        };
        let added = logging(LazyPolicy::Background, &log);
        for reference in ["r/a:1", "r/a:1", "r/b:1", "r/a:1"] {
            added.add_behind(&wanted(reference));
        }
        added.add_behind(&Wanted::default());
        // All have had their turn when there are as many places as before.
        let all = u32::try_from(BEHIND_MAX).unwrap();
        drop(added.places.acquire_many(all).await.unwrap());
        assert_eq!(
            std::fs::read_to_string(&log).unwrap(),
            "--name r/a:1 -- docker://r/a:1@sha256:1\n--name r/b:1 -- docker://r/b:1@sha256:1\n"
        );
        for policy in [LazyPolicy::IfStored, LazyPolicy::Never] {
            assert!(!logging(policy, &log).add(&wanted("r/c:1")).await.unwrap());
        }
        for policy in ["always", "background", "if-stored", "never"] {
            assert_eq!(policy.parse::<LazyPolicy>().unwrap().to_string(), policy);
        }
    }
}
