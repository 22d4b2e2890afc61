//! Making volumes, and committing what was written to their mounts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use nacre_blobstore::{
    Attributes, ItemKind, Merge, PackName, Record, RecordKind, SecureError, Tree, TreeId,
    load_packs, merge_trees, resolve_packs, sync_index,
};

use super::api::{CommitVolume, CommittedVolume};
use super::mountable::Mountable;
use super::node::{Node, NodeError};
use crate::snapshot::{Capture, Captured, Globs, SnapshotError};
use crate::volume::{Leased, Volume, first};

/// Times that others may move the head first before a commit is refused.
const ATTEMPTS_MAX: usize = 256;
/// Paths of a conflict that are told at most.
const CONFLICTS_MAX: usize = 10_000;

/// What a mount is based on: a version of the volume, and the tree that the mount showed then.
#[derive(Debug, Clone)]
struct Based {
    record: String,
    version: u64,
    tree: TreeId,
}

/// What a commit wants to make of a head.
enum Step {
    /// This tree, with more packs than the capture needs.
    Tree(TreeId, BTreeSet<PackName>),
    /// Nothing: the head is that.
    There,
    /// Nothing: both sides changed these paths, or any, and no merge is wanted.
    Refused(Vec<String>),
}

impl Node {
    /// Makes a volume with the file system of something, or an empty one; returns the id of its
    /// first version's record.
    ///
    /// # Errors
    /// [`NodeError::Snapshot`] with [`SnapshotError::Taken`] when the name is not free; others.
    pub async fn create_volume(&self, name: &str, from: Option<&str>) -> Result<String, NodeError> {
        let leased = self.lease_volume(&format!("volume {name}")).await?;
        let created = async {
            let record = match from {
                Some(from) => self.first_of(from).await?,
                None => self.first_empty().await?,
            };
            // What it is made from may be pending.
            self.pending.promote(&record.packs).await?;
            Ok(leased.create(name, record).await?.record_id.to_string())
        };
        let created = created.await;
        leased.release().await;
        created
    }

    async fn first_of(&self, from: &str) -> Result<Record, NodeError> {
        let from = self.find_image(from).await?;
        let tree = from.tree();
        let tree = tree.ok_or_else(|| NodeError::NoTree(from.id.to_string()))?;
        let origin = (from.id.to_string(), from.base.clone(), from.config.clone());
        let payload = first(origin, self.options.clock.now_ms())?;
        let image = from.record.metadata_images.get(&tree);
        Ok(Record {
            kind: RecordKind::Snapshot,
            trees: vec![tree],
            packs: self.needed_packs(&from).await?,
            metadata_images: image.map(|image| (tree, *image)).into_iter().collect(),
            payload: payload.encode(),
        })
    }

    /// Stores an empty directory of root's.
    async fn first_empty(&self) -> Result<Record, NodeError> {
        let made = || {
            let (empty, bytes) = Tree::default().encode()?;
            let attributes = Attributes {
                mode: 0o755,
                ..Attributes::default()
            };
            let (root, root_bytes) = Tree::root(attributes, empty)?.encode()?;
            Ok::<_, SnapshotError>((root, vec![(empty, bytes), (root, root_bytes)]))
        };
        let (tree, trees) = made()?;
        // What the index knows may have been collected.
        sync_index(&self.store, &self.index).await?;
        let packs = self.store_trees(trees).await?;
        let origin = (String::new(), String::new(), "{}".to_owned());
        let payload = first(origin, self.options.clock.now_ms())?;
        Ok(Record {
            kind: RecordKind::Snapshot,
            trees: vec![tree],
            packs,
            metadata_images: BTreeMap::new(),
            payload: payload.encode(),
        })
    }

    /// Makes what was written to a mount of a volume its next version, by compare-and-swap; it is
    /// durable in the store when this returns. What others committed since is merged in, or is a
    /// conflict. The mount goes on showing what it shows.
    ///
    /// A commit that was killed after it moved the head is known again by the mount's id in the
    /// log: the next one goes on from there.
    ///
    /// # Errors
    /// [`NodeError::Snapshot`]: [`SnapshotError::Moved`] when the volume is not the one that was
    /// mounted, or its head moves all the time. The head is as it was.
    pub async fn commit_volume(&self, request: CommitVolume) -> Result<CommittedVolume, NodeError> {
        let began = self.options.clock.elapsed();
        let lower = self.find_image(&request.lower).await?;
        load_packs(&self.store, &self.index, &lower.record.packs).await?;
        let holder = format!("commit of {} from {}", request.volume, request.sandbox);
        let leased = self.lease_volume(&holder).await?;
        let once = async || {
            let captured = self
                .capture(&lower, capture_of(&request, &lower)?, self.capture_tools())
                .await?;
            self.commit_captured(&request, &lower, captured, &leased, began)
                .await
        };
        let committed = match once().await {
            // What the index knows may have been collected; what is known from the last time, too.
            Err(NodeError::Snapshot(
                error @ (SnapshotError::Missing(_) | SnapshotError::Secure(SecureError::Gone(_))),
            )) => {
                tracing::info!(%error, "capture again");
                drop(std::fs::remove_file(&request.state));
                match sync_index(&self.store, &self.index).await {
                    Ok(_) => once().await,
                    Err(error) => Err(error.into()),
                }
            }
            committed => committed,
        };
        leased.release().await;
        committed
    }

    async fn commit_captured(
        &self,
        request: &CommitVolume,
        lower: &Mountable,
        (captured, packs): (Captured, BTreeSet<PackName>),
        leased: &Leased,
        began: Duration,
    ) -> Result<CommittedVolume, NodeError> {
        let store = &*self.options.store;
        let mut answer = answer_of(request, &captured);
        let mut uploaded = captured.stats.bytes_stored;
        let mut written = HashSet::new();
        for _ in 0..ATTEMPTS_MAX {
            let (head, seen) = Volume::find_to_change(store, &request.volume).await?;
            let based = self.based_on(request, &head).await?;
            answer.note(&head, &based);
            answer.bytes_uploaded = uploaded;
            answer.total_ms = self.milliseconds_since(began);
            if captured.tree == based.tree {
                answer.committed = true;
                // It may be by an attempt of this call that moved the head after all.
                answer.unchanged = !written.contains(&based.record);
                self.remember(request, lower, captured);
                return Ok(answer);
            }
            if request.dry_run {
                return Ok(answer);
            }
            let step = self.step(request, &captured, &head, based.tree).await?;
            let (tree, more) = match step {
                Step::Refused(paths) => {
                    answer.conflict = paths;
                    return Ok(answer);
                }
                Step::There => {
                    answer.shows(&head, captured.tree);
                    self.remember(request, lower, captured);
                    return Ok(answer);
                }
                Step::Tree(tree, packs) => (tree, packs),
            };
            let packs = packs.union(&more).copied().collect();
            let now_ms = self.options.clock.now_ms();
            let record = next_record(request, &head, &captured, (tree, packs), now_ms)?;
            self.pending.promote(&record.packs).await?;
            let id = leased.put(&record).await?;
            uploaded += record.encode().1.len() as u64;
            written.insert(id.to_string());
            if leased.advance((&head, &seen), (id, &record)).await? {
                let new = Volume::read(store, &request.volume, id).await?;
                answer.shows(&new, captured.tree);
                answer.merged = tree != captured.tree;
                answer.bytes_uploaded = uploaded;
                answer.total_ms = self.milliseconds_since(began);
                self.remember(request, lower, captured);
                return Ok(answer);
            }
        }
        Err(SnapshotError::Moved(request.volume.clone()).into())
    }

    /// Finds what a mount is based on: what it says, or a later version that was committed from it
    /// without its knowing.
    async fn based_on(&self, request: &CommitVolume, head: &Volume) -> Result<Based, NodeError> {
        if head.version.id != request.id {
            return Err(SnapshotError::Moved(request.volume.clone()).into());
        }
        let store = &*self.options.store;
        let later = head.last_of(store, &request.mount, request.version).await?;
        if let Some((version, tree)) = later.and_then(|v| Some((v.clone(), v.committed_tree()?))) {
            return Ok(Based {
                record: version.record_id.to_string(),
                version: version.version.number,
                tree,
            });
        }
        let tree = request.tree.parse();
        let tree = tree.map_err(|_| NodeError::NoTree(request.tree.clone()))?;
        Ok(Based {
            record: request.record.clone(),
            version: request.version,
            tree,
        })
    }

    /// Decides what becomes of the head: `base` is what both sides started from.
    async fn step(
        &self,
        request: &CommitVolume,
        captured: &Captured,
        head: &Volume,
        base: TreeId,
    ) -> Result<Step, NodeError> {
        let Some(theirs) = head.tree() else {
            return Err(NodeError::NoTree(head.record_id.to_string()));
        };
        if theirs == base {
            return Ok(Step::Tree(captured.tree, BTreeSet::new()));
        }
        if theirs == captured.tree {
            return Ok(Step::There);
        }
        load_packs(&self.store, &self.index, &head.record.packs).await?;
        let merged = merge_trees(&*self.reader, base, captured.tree, theirs).await;
        match merged.map_err(SnapshotError::from)? {
            Merge::Conflicts(paths) => {
                let paths = paths.iter().take(CONFLICTS_MAX);
                Ok(Step::Refused(paths.map(ToString::to_string).collect()))
            }
            Merge::Merged(_) if !request.merge => Ok(Step::Refused(Vec::new())),
            Merge::Merged(merged) => {
                let mut packs = self.store_trees(merged.trees).await?;
                let store = &*self.options.store;
                let theirs = resolve_packs(store, head.record_id, &head.record).await;
                packs.extend(theirs.map_err(SnapshotError::from)?);
                Ok(Step::Tree(merged.root, packs))
            }
        }
    }

    /// Stores the trees that are not stored yet, and returns the packs of all.
    async fn store_trees(
        &self,
        trees: Vec<(TreeId, Vec<u8>)>,
    ) -> Result<BTreeSet<PackName>, NodeError> {
        let ids: Vec<_> = trees.iter().map(|(id, _)| ItemKind::Tree(*id)).collect();
        let new = trees.into_iter();
        let new = new.map(|(id, bytes)| (ItemKind::Tree(id), bytes)).collect();
        let tools = self.capture_tools();
        let stored = tokio::task::spawn_blocking(move || tools.store_metadata(new));
        stored.await.map_err(|_| NodeError::Stopped)??;
        self.packs_of(ids)
    }

    fn remember(&self, request: &CommitVolume, lower: &Mountable, captured: Captured) {
        if let Some(base) = lower.tree() {
            captured.remember("/", request.lower.clone(), &request.state, base);
        }
    }

    async fn lease_volume(&self, holder: &str) -> Result<Leased, NodeError> {
        let (store, clock) = (&self.options.store, &self.options.clock);
        let crash = self.options.crash.clone();
        Ok(Leased::acquire(store, clock, holder, crash).await?)
    }
}

impl CommittedVolume {
    /// Says what the head is, and what the mount is based on.
    fn note(&mut self, head: &Volume, based: &Based) {
        self.head = head.record_id.to_string();
        self.head_version = head.version.number;
        self.record.clone_from(&based.record);
        self.version = based.version;
        self.mounted_tree = based.tree.to_string();
    }

    /// Says that what the mount shows is in a version, which is the head.
    fn shows(&mut self, version: &Volume, tree: TreeId) {
        self.committed = true;
        let record = version.record_id.to_string();
        let version = version.version.number;
        (self.head, self.head_version) = (record.clone(), version);
        (self.record, self.version) = (record, version);
        self.mounted_tree = tree.to_string();
    }
}

/// Makes the record of the version after `head`.
fn next_record(
    request: &CommitVolume,
    head: &Volume,
    captured: &Captured,
    (tree, packs): (TreeId, BTreeSet<PackName>),
    now_ms: u64,
) -> Result<Record, SnapshotError> {
    let mut payload = head.next(now_ms)?;
    payload.sandbox.clone_from(&request.sandbox);
    payload.bytes_changed = captured.bytes_changed();
    if let Some(version) = &mut payload.volume {
        version.mount = Some(request.mount.clone());
    }
    // What the mount shows comes first: the next commit of it is compared with that.
    let mut trees = vec![captured.tree];
    trees.extend((tree != captured.tree).then_some(tree));
    Ok(Record {
        kind: RecordKind::Snapshot,
        trees,
        packs,
        metadata_images: BTreeMap::new(),
        payload: payload.encode(),
    })
}

fn capture_of(request: &CommitVolume, lower: &Mountable) -> Result<Capture, NodeError> {
    let base = lower.tree();
    Ok(Capture {
        upper: request.upper.clone(),
        state: request.state.clone(),
        base: base.ok_or_else(|| NodeError::NoTree(request.lower.clone()))?,
        cgroup: request.cgroup.clone(),
        path: "/".to_owned(),
        excludes: Globs::new(&[]).map_err(SnapshotError::Invalid)?,
    })
}

fn answer_of(request: &CommitVolume, captured: &Captured) -> CommittedVolume {
    CommittedVolume {
        volume: request.volume.clone(),
        head: String::new(),
        head_version: 0,
        version: request.version,
        record: request.record.clone(),
        mounted_tree: request.tree.clone(),
        committed: false,
        unchanged: false,
        merged: false,
        conflict: Vec::new(),
        added: captured.added(),
        modified: captured.modified(),
        removed: captured.removed(),
        bytes_changed: captured.bytes_changed(),
        bytes_uploaded: 0,
        frozen_ms: captured.frozen.as_secs_f64() * 1000.0,
        total_ms: 0.0,
        skipped: captured.skipped.clone(),
    }
}
