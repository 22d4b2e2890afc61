//! Sandboxes, snapshots, differences, merges, collection and crashes against a model: after each
//! step the trees of all snapshots are what the model says, and what they need is in the store.
//!
//! `NACRE_MODEL_CASES` tells how many cases are run, `NACRE_MODEL_SEED` the seed of the first; a
//! failure prints its seed and the shortest list of steps that fails. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nacre_blobstore::{
    CrashPoint, Diff, Difference, Merge, Operation, TreeId, TreePath, TreeReader,
    apply_differences, merge_trees,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::files::{CONTENTS, Change, Files, Shown};
use super::scene::{Made, Sandbox, Scene};
use crate::snapshot::capture::NewTrees;

/// Cases of an ordinary test run.
const CASES: u64 = 64;
const STEPS_MAX: usize = 30;
/// Sandboxes at once.
const SANDBOXES: usize = 2;
/// Longer than one tick of the clock of ctimes, so that the next snapshot may know files again.
const SETTLE: Duration = Duration::from_millis(60);

/// A step. Numbers stand for any of those that there are.
#[derive(Debug, Clone)]
enum Step {
    Change(usize, Change),
    Commit(usize),
    CommitSettled(usize),
    /// The node dies while it takes a snapshot, and knows nothing afterwards.
    Crash(usize, CrashPoint),
    Start(usize, usize),
    Remove(usize),
    Collect,
    Diff(usize, usize),
    Merge(usize, usize, usize),
}

struct Live {
    sandbox: Sandbox,
    files: Files,
    /// The last snapshot, while nothing has changed since.
    last: Option<TreeId>,
    /// Whether what it was started from may have been collected.
    orphan: bool,
}

struct System {
    scene: Scene,
    live: Vec<Live>,
    snapshots: Vec<(Made, BTreeMap<TreePath, Shown>, Files)>,
}

impl System {
    fn new() -> Self {
        let scene = Scene::new();
        let (first, files) = (scene.empty(), Files::empty());
        let live = (0..SANDBOXES).map(|_| Live {
            sandbox: scene.start(&first),
            files: files.started(),
            last: None,
            orphan: false,
        });
        Self {
            live: live.collect(),
            snapshots: vec![(first, files.shown(), files)],
            scene,
        }
    }

    fn snapshot(&self, number: usize) -> Option<&(Made, BTreeMap<TreePath, Shown>, Files)> {
        self.snapshots
            .get(number.checked_rem(self.snapshots.len())?)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Change(number, change) => {
                let live = &mut self.live[number % SANDBOXES];
                let done = change.apply(&live.sandbox.root());
                let expected = live.files.apply(change);
                assert_eq!(done.is_ok(), expected, "{done:?}");
                if expected {
                    live.last = None;
                }
                return;
            }
            Step::Commit(number) => self.commit(number % SANDBOXES),
            Step::CommitSettled(number) => {
                let settled = self.scene.tools.clock.sleep(SETTLE);
                self.scene.runtime.block_on(settled);
                self.commit(number % SANDBOXES);
            }
            Step::Crash(number, point) => {
                let live = &self.live[number % SANDBOXES];
                let scene = &self.scene;
                let died = || scene.snapshot(&live.sandbox, Some(*point));
                if let Ok(Ok(made)) = catch_unwind(AssertUnwindSafe(died)) {
                    // It had nothing to do at that point.
                    scene.remove(&made);
                }
                self.scene.forget();
                self.scene.expire_leases();
            }
            Step::Start(number, from) => {
                let Some((made, _, files)) = self.snapshot(*from) else {
                    return;
                };
                let live = Live {
                    sandbox: self.scene.start(made),
                    files: files.started(),
                    last: None,
                    orphan: false,
                };
                self.live[number % SANDBOXES] = live;
            }
            Step::Remove(number) => {
                let Some(at) = number.checked_rem(self.snapshots.len()) else {
                    return;
                };
                let (made, ..) = self.snapshots.remove(at);
                self.scene.remove(&made);
                let is_of = |live: &&mut Live| live.sandbox.from.name == made.name;
                self.live
                    .iter_mut()
                    .filter(is_of)
                    .for_each(|live| live.orphan = true);
            }
            Step::Collect => {
                self.scene.collect();
            }
            Step::Diff(a, b) => {
                if let (Some(a), Some(b)) = (self.snapshot(*a), self.snapshot(*b)) {
                    self.diff((a.0.tree, &a.1), (b.0.tree, &b.1));
                }
            }
            Step::Merge(base, ours, theirs) => {
                let [base, ours, theirs] = [base, ours, theirs].map(|n| self.snapshot(*n));
                if let (Some(base), Some(ours), Some(theirs)) = (base, ours, theirs) {
                    self.merge([base, ours, theirs].map(|s| s.0.tree));
                }
            }
        }
        self.check();
    }

    fn commit(&mut self, number: usize) {
        let live = &mut self.live[number];
        let made = match self.scene.snapshot(&live.sandbox, None) {
            Ok(made) => made,
            Err(error) => {
                assert!(live.orphan, "{error}");
                return;
            }
        };
        if let Some(last) = live.last {
            assert_eq!(made.tree, last, "nothing changed");
        }
        live.last = Some(made.tree);
        let files = live.files.clone();
        self.snapshots.push((made, files.shown(), files));
    }

    fn check(&self) {
        for (made, shown, _) in &self.snapshots {
            assert_eq!(self.scene.shown(made.tree), *shown, "{}", made.name);
        }
        self.scene.check();
    }

    fn differences(&self, before: TreeId, after: TreeId) -> Vec<Difference> {
        let trees = &*self.scene.tools.reader;
        let found = async { Diff::of_roots(trees, before, after).await?.collect().await };
        self.scene.runtime.block_on(found).unwrap()
    }

    fn diff(
        &self,
        (before, old): (TreeId, &BTreeMap<TreePath, Shown>),
        (after, new): (TreeId, &BTreeMap<TreePath, Shown>),
    ) {
        let found = self.differences(before, after);
        let counts = |difference: &&Difference| {
            let modified = difference.modified();
            let parts = [
                modified.kind,
                modified.content,
                modified.mode,
                modified.links,
            ];
            difference.operation() != Operation::Modified || parts.contains(&true)
        };
        let found_paths: BTreeMap<_, _> = found
            .iter()
            .filter(counts)
            .map(|difference| (difference.path.clone(), difference.operation()))
            .collect();
        let paths: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let expected = paths.into_iter().filter_map(|path| {
            let operation = match (old.get(path), new.get(path)) {
                (None, _) => Operation::Added,
                (_, None) => Operation::Removed,
                (old, new) if old == new => return None,
                _ => Operation::Modified,
            };
            Some((path.clone(), operation))
        });
        assert_eq!(found_paths, expected.collect::<BTreeMap<_, _>>());
        let applied = apply_differences(&*self.scene.tools.reader, before, found);
        let applied = self.scene.runtime.block_on(applied).unwrap();
        assert_eq!(applied.root, after);
    }

    fn merge(&self, [base, ours, theirs]: [TreeId; 3]) {
        let merge = |base, ours, theirs| {
            let merged = merge_trees(&*self.scene.tools.reader, base, ours, theirs);
            match self.scene.runtime.block_on(merged).unwrap() {
                Merge::Merged(edited) => Ok(edited),
                Merge::Conflicts(paths) => Err(paths),
            }
        };
        assert_eq!(merge(base, ours, base).map(|edited| edited.root), Ok(ours));
        assert_eq!(
            merge(base, base, theirs).map(|edited| edited.root),
            Ok(theirs)
        );
        let merged = merge(base, ours, theirs);
        let other = merge(base, theirs, ours);
        assert_eq!(
            merged.as_ref().map(|edited| edited.root),
            other.as_ref().map(|edited| edited.root)
        );
        let shown = |root| self.scene.shown(root);
        let (old, left, right) = (shown(base), shown(ours), shown(theirs));
        match merged {
            // Each path is as a side that changed it has it, but for its links.
            Ok(edited) => {
                let trees = NewTrees::new(&self.scene.tools.reader, edited.trees);
                let merged = self.scene.shown_in(&trees as &dyn TreeReader, edited.root);
                let sides = [&old, &left, &right, &merged];
                let paths: BTreeSet<_> = sides.iter().flat_map(|side| side.keys()).collect();
                for path in paths {
                    let [old, left, right, merged] =
                        sides.map(|side| side.get(path).map(|s| (s.mode, s.bytes)));
                    let expected = if left == old { right } else { left };
                    assert_eq!(merged, expected, "{path}");
                }
            }
            // Both sides changed something there, be it a time.
            Err(paths) => {
                for path in paths {
                    let near = |other: &TreePath| {
                        *other == path || path.is_above(other) || other.is_above(&path)
                    };
                    for side in [ours, theirs] {
                        let changed = self.differences(base, side);
                        assert!(changed.iter().any(|d| near(&d.path)), "{path}");
                    }
                }
            }
        }
    }
}

fn any_path() -> impl Strategy<Value = TreePath> {
    let name = prop::sample::select(vec!["a", "b", "a.c", "d"]);
    let names = prop::collection::vec(name, 1..4);
    names.prop_map(|names| TreePath::parse(names.join("/").as_bytes()).unwrap())
}

fn any_change() -> impl Strategy<Value = Change> {
    let mode = prop::sample::select(vec![0o600_u16, 0o755, 0o4711, 0o1777]);
    let chmod_path = prop_oneof![5 => any_path(), 1 => Just(TreePath::root())];
    prop_oneof![
        6 => (any_path(), 0..CONTENTS).prop_map(|(at, number)| Change::Write(at, number)),
        4 => any_path().prop_map(Change::Directory),
        1 => (any_path(), 0..3_u8).prop_map(|(at, number)| Change::Symlink(at, number)),
        2 => (chmod_path, mode).prop_map(|(at, mode)| Change::Chmod(at, mode)),
        2 => any_path().prop_map(Change::Remove),
        3 => (any_path(), any_path()).prop_map(|(from, to)| Change::Rename(from, to)),
        3 => (any_path(), any_path()).prop_map(|(from, to)| Change::Link(from, to)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let sandbox = || 0..SANDBOXES;
    let number = || 0..100_usize;
    let points = vec![
        CrashPoint::PackPutBefore,
        CrashPoint::PackPutAfter,
        CrashPoint::IndexPutAfter,
        CrashPoint::DataFinished,
        CrashPoint::TreesFinished,
    ];
    prop_oneof![
        30 => (sandbox(), any_change()).prop_map(|(s, change)| Step::Change(s, change)),
        6 => sandbox().prop_map(Step::Commit),
        2 => sandbox().prop_map(Step::CommitSettled),
        1 => (sandbox(), prop::sample::select(points)).prop_map(|(s, point)| Step::Crash(s, point)),
        3 => (sandbox(), number()).prop_map(|(s, from)| Step::Start(s, from)),
        1 => number().prop_map(Step::Remove),
        1 => Just(Step::Collect),
        2 => (number(), number()).prop_map(|(a, b)| Step::Diff(a, b)),
        2 => (number(), number(), number()).prop_map(|(a, b, c)| Step::Merge(a, b, c)),
    ]
}

fn parameter(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the test's own parameter")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn snapshots_are_what_a_model_of_their_sandboxes_says() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: overlays need root");
        return;
    }
    let first = parameter("NACRE_MODEL_SEED").unwrap_or(1);
    let cases = parameter("NACRE_MODEL_CASES").unwrap_or(CASES);
    for seed in first..first + cases {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let config = Config {
            cases: 1,
            failure_persistence: None,
            max_shrink_iters: 300,
            ..Config::default()
        };
        let steps = prop::collection::vec(any_step(), 1..STEPS_MAX);
        let outcome = TestRunner::new_with_rng(config, rng).run(&steps, |steps| {
            let mut system = System::new();
            steps.iter().for_each(|step| system.step(step));
            (0..SANDBOXES).for_each(|number| system.commit(number));
            system.scene.collect();
            system.check();
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("NACRE_MODEL_SEED={seed} NACRE_MODEL_CASES=1: {error}");
        }
    }
}
