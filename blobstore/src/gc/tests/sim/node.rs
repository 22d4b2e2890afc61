//! A simulated node: what it remembers of the store, and a writer as simple as one can be that
//! relies on what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::world::{SimClock, SimStore, World};
use crate::frame;
use crate::pack::{Item, ItemKind, PackBuilder};
use crate::{
    Attributes, BlobStore, Chunk, Clock, ContentId, Digest, Entry, Epoch, Hints, Key, Lease,
    Node as TreeNode, PackIndex, PackKind, PackName, Record, RecordId, RecordKind, Ref, RefName,
    SecureError, StoreError, Tree, TreeId, encode_metadata_image, read_epoch, read_ref, secure,
    write_ref,
};

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a node knows of the packs: as its index does, it knows them until it looks again.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    since: Option<Epoch>,
    items: Known,
}

/// Which pack has an item.
type Known = BTreeMap<ItemKind, PackName>;

/// What a writer met, so that a simulation can show that it meets all of it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Met {
    pub(super) stored: u64,
    pub(super) uploaded: u64,
    pub(super) reused: u64,
    pub(super) gone: u64,
    pub(super) failed: u64,
    pub(super) deleted: u64,
    pub(super) rescued: u64,
    pub(super) repacked: u64,
    pub(super) crashed: u64,
}

/// What is left out, to show that the simulation finds what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Writers do not read the notes at all.
    NoSecure,
    /// Writers do not look whether what they need was deleted since they learned of it.
    NoLook,
    /// Writers do not ask whether their lease still holds.
    NoLeaseCheck,
    /// The collector deletes past the time for which it has doomed.
    EndlessDoom,
}

#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) node: usize,
    pub(super) broken: Option<Broken>,
    pub(super) world: Arc<World>,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) knowledge: Arc<tokio::sync::Mutex<Knowledge>>,
    pub(super) met: Arc<std::sync::Mutex<Met>>,
}

pub(super) fn chunk(number: u8) -> Chunk {
    Chunk::of(format!("chunk {number}").into_bytes().into())
}

impl Writer {
    pub(super) fn new(
        world: &Arc<World>,
        met: &Arc<std::sync::Mutex<Met>>,
        node: usize,
        broken: Option<Broken>,
    ) -> Self {
        Self {
            node,
            broken,
            world: Arc::clone(world),
            store: Arc::new(SimStore {
                world: Arc::clone(world),
                node,
                is_gc: false,
            }),
            clock: Arc::new(SimClock {
                world: Arc::clone(world),
                node,
                stopped: None,
            }),
            knowledge: Arc::default(),
            met: Arc::clone(met),
        }
    }

    /// Stores an image of `chunks` and gives it the name `name`.
    pub(super) async fn ingest(
        &self,
        name: RefName,
        chunks: BTreeSet<u8>,
        lease: String,
    ) -> Result<(), Failure> {
        let mut known = self.knowledge.lock().await;
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let lease = Lease::acquire(store, clock, &lease, "writer").await?;
        for _ in 0..4 {
            match self.store_image(&name, &chunks, &mut known, &lease).await {
                Err(error) if is_gone(&error) => {
                    self.met.lock().unwrap().gone += 1;
                    known.since = None;
                }
                done => {
                    done?;
                    self.met.lock().unwrap().stored += 1;
                    lease.release().await?;
                    return Ok(());
                }
            }
        }
        Err("gone again and again".into())
    }

    /// Makes an image of `chunks` on this node, without a lease, and stores it later, with one: as
    /// a snapshot that is answered before it is durable.
    pub(super) async fn upload(
        &self,
        name: RefName,
        chunks: BTreeSet<u8>,
        lease: String,
    ) -> Result<(), Failure> {
        let mut known = self.knowledge.lock().await;
        if known.since.is_none() {
            self.learn(&mut known).await?;
        }
        // What is staged is not in the store yet.
        let mut items = known.items.clone();
        let (record, staged) = image_of(&chunks, &mut items)?;
        // For as long as the store cannot be reached.
        self.world.pause(self.node).await;
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let lease = Lease::acquire(store, clock, &lease, "pending").await?;
        for (key, body) in staged {
            self.store.put(&key, body).await?;
        }
        known.items = items;
        let id = record.write(&*self.store).await?;
        let uploaded = self.publish(&name, id, &record, None, &lease).await;
        if uploaded.as_ref().is_err_and(is_gone) {
            known.since = None;
            self.met.lock().unwrap().gone += 1;
        }
        uploaded?;
        self.met.lock().unwrap().uploaded += 1;
        Ok(lease.release().await?)
    }

    async fn store_image(
        &self,
        name: &RefName,
        chunks: &BTreeSet<u8>,
        known: &mut Knowledge,
        lease: &Lease,
    ) -> Result<(), Failure> {
        let since = match known.since {
            Some(since) => since,
            None => self.learn(known).await?,
        };
        let mut items = known.items.clone();
        let (record, new) = image_of(chunks, &mut items)?;
        let is_reused = items.len() < known.items.len() + chunks.len() + 2;
        self.met.lock().unwrap().reused += u64::from(is_reused);
        for (key, body) in new {
            self.store.put(&key, body).await?;
        }
        known.items = items;
        let id = record.write(&*self.store).await?;
        self.publish(name, id, &record, Some(since), lease).await
    }

    /// Gives an image that has a name another one.
    pub(super) async fn tag(
        &self,
        from: RefName,
        to: RefName,
        lease: String,
    ) -> Result<(), Failure> {
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let lease = Lease::acquire(store, clock, &lease, "tag").await?;
        let since = read_epoch(&*self.store).await?;
        let found = read_ref(&*self.store, &from).await?;
        if let Some((target, _)) = found {
            let record = Record::read(&*self.store, target.record).await?;
            self.publish(&to, target.record, &record, Some(since), &lease)
                .await?;
        }
        Ok(lease.release().await?)
    }

    async fn publish(
        &self,
        name: &RefName,
        id: RecordId,
        record: &Record,
        since: Option<Epoch>,
        lease: &Lease,
    ) -> Result<(), Failure> {
        let seen = read_ref(&*self.store, name).await?.map(|found| found.1);
        let since = match self.broken {
            Some(Broken::NoLook) => Some(read_epoch(&*self.store).await?),
            _ => since,
        };
        if self.broken == Some(Broken::NoSecure) {
            self.world.pause(self.node).await;
            lease.check()?;
        } else {
            let secured = secure(&*self.store, &*self.clock, id, record, since).await?;
            self.world.pause(self.node).await;
            if self.broken != Some(Broken::NoLeaseCheck) {
                lease.check()?;
            }
            secured.check(&*self.clock)?;
        }
        let target = Ref {
            record: id,
            changed_ms: self.clock.now_ms(),
        };
        Ok(write_ref(&*self.store, name, target, seen.as_ref()).await?)
    }

    /// Learns anew which packs there are.
    async fn learn(&self, known: &mut Knowledge) -> Result<Epoch, Failure> {
        known.items.clear();
        let since = read_epoch(&*self.store).await?;
        let mut copies = BTreeSet::new();
        for kind in PackKind::ALL {
            let listed: Vec<_> = self.store.list(kind.index_folder()).try_collect().await?;
            copies.extend(listed.iter().filter_map(|o| PackName::from_key(&o.key)));
        }
        for kind in PackKind::ALL {
            let listed: Vec<_> = self.store.list(kind.folder()).try_collect().await?;
            let packs = listed.iter().filter_map(|o| PackName::from_key(&o.key));
            for name in packs.filter(|name| copies.contains(name)) {
                let bytes = match self.store.get(&name.index_key(), 1 << 20).await {
                    Err(StoreError::NotFound(_)) => continue,
                    got => got?.0,
                };
                let index = PackIndex::decode(name, &bytes)?;
                let items = index.items().map(|(_, _, item)| (item.kind, name));
                known.items.extend(items);
            }
        }
        known.since = Some(since);
        Ok(since)
    }
}

/// What is to be stored, in this order.
type New = Vec<(Key, Bytes)>;

/// Makes the record of an image of `chunks`, and what is not known to be stored of it.
fn image_of(chunks: &BTreeSet<u8>, known: &mut Known) -> Result<(Record, New), Failure> {
    let items = chunks.iter().map(|number| {
        let chunk = chunk(*number);
        (ItemKind::Chunk(chunk.id()), chunk.bytes().to_vec())
    });
    let (mut packs, mut new) = pack(PackKind::Data, items.collect(), known)?;
    let (root, trees) = trees_of(chunks);
    let (tree_packs, new_trees) = pack(PackKind::Tree, trees, known)?;
    packs.extend(tree_packs);
    new.extend(new_trees);
    let (metadata, bytes) = encode_metadata_image(root, b"image", &Hints::default())?;
    new.push((metadata.key(), bytes.into()));
    let record = Record {
        kind: RecordKind::Image,
        trees: vec![root],
        packs,
        metadata_images: [(root, metadata)].into(),
        payload: Vec::new(),
    };
    Ok((record, new))
}

/// Packs those of the items that are not known, and returns the packs of all.
fn pack(
    kind: PackKind,
    items: Vec<(ItemKind, Vec<u8>)>,
    known: &mut Known,
) -> Result<(BTreeSet<PackName>, New), Failure> {
    let mut packs = BTreeSet::new();
    let mut fresh = Vec::new();
    for (item, bytes) in items {
        match known.get(&item) {
            Some(pack) => drop(packs.insert(*pack)),
            None => fresh.push((item, bytes)),
        }
    }
    if fresh.is_empty() {
        return Ok((packs, Vec::new()));
    }
    let mut pack = PackBuilder::new(kind);
    for (item, bytes) in &fresh {
        let hash = Digest::of(bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        pack.push_frame(
            &frame::compress(bytes)?,
            &[(Item { kind: *item, hash }, len)],
        );
    }
    let pack = pack.finish();
    let name = pack.name;
    known.extend(fresh.iter().map(|(item, _)| (*item, name)));
    packs.insert(name);
    let new = vec![
        (name.key(), pack.bytes.into()),
        (name.index_key(), pack.index_bytes.into()),
    ];
    Ok((packs, new))
}

/// The trees of an image with a file for each chunk.
fn trees_of(chunks: &BTreeSet<u8>) -> (TreeId, Vec<(ItemKind, Vec<u8>)>) {
    let file = |number: &u8| {
        let chunk = chunk(*number);
        Entry {
            name: number.to_string().into_bytes().into(),
            attributes: Attributes::default(),
            node: TreeNode::File {
                content: ContentId::new(*chunk.id().digest()),
                size_bytes: chunk.bytes().len() as u64,
            },
            hard_link: None,
        }
    };
    let top = Tree::new(chunks.iter().map(file).collect()).unwrap();
    let (top, top_bytes) = top.encode().unwrap();
    let root = Tree::root(Attributes::default(), top).unwrap();
    let (root, root_bytes) = root.encode().unwrap();
    let items = vec![
        (ItemKind::Tree(top), top_bytes),
        (ItemKind::Tree(root), root_bytes),
    ];
    (root, items)
}

fn is_gone(error: &Failure) -> bool {
    matches!(error.downcast_ref(), Some(SecureError::Gone(_)))
}
