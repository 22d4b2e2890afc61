//! From stored layers to stored trees.

use std::collections::{BTreeSet, HashSet};

use nacre_blobstore::{Hints, ItemKind, ItemStream, TreeId};

use super::IngestError;
use super::layer::StoredLayer;
use super::metadata::StagedTrees;
use crate::hints::{AllNeeds, Program, resolve};
use crate::image::ImageLayer;
use crate::merge::MergedTree;
use crate::oci::OciDigest;

/// The layers as one file system, its trees stored.
pub(super) struct Merged {
    pub(super) trees: Vec<TreeId>,
    pub(super) layers: Vec<ImageLayer>,
    pub(super) items: BTreeSet<ItemKind>,
    pub(super) staged: StagedTrees,
    pub(super) hints: Hints,
    pub(super) files: u64,
    pub(super) bytes_compressed: u64,
    pub(super) bytes_plain: u64,
}

/// Merges layers and stores trees and chunk lists; runs on a blocking thread.
pub(super) struct TreeStage {
    stream: ItemStream,
    items: HashSet<ItemKind>,
    staged: StagedTrees,
    program: Program,
}

impl TreeStage {
    /// Stores the trees of an image that starts `program` through `stream`.
    pub(super) fn new(stream: ItemStream, program: Program) -> Self {
        Self {
            stream,
            program,
            items: HashSet::new(),
            staged: StagedTrees::default(),
        }
    }

    pub(super) fn run(mut self, stored: Vec<StoredLayer>) -> Result<Merged, IngestError> {
        let mut tree = MergedTree::new();
        let (mut trees, mut layers) = (Vec::new(), Vec::new());
        let mut chain: Option<OciDigest> = None;
        let mut bytes_compressed = 0;
        let mut needs = AllNeeds::new();
        if stored.is_empty() {
            trees.push(self.encode(&mut tree)?);
        }
        for layer in stored {
            let StoredLayer {
                name,
                diff,
                contents,
                needs: found,
                blob,
            } = layer;
            needs.extend(found);
            let merge = |source| IngestError::Merge {
                layer: name,
                source,
            };
            tree.apply(diff).map_err(merge)?;
            for content in &contents {
                self.items
                    .extend(content.chunks.iter().map(|(id, _)| ItemKind::Chunk(*id)));
                if let Some(list) = content.list() {
                    self.add(ItemKind::ChunkList(content.content), &list.encode()?)?;
                }
            }
            let root = self.encode(&mut tree)?;
            trees.push(root);
            if let Some(descriptor) = blob {
                bytes_compressed += descriptor.size_bytes;
                let id = match &chain {
                    None => descriptor.diff_id.clone(),
                    Some(lower) => {
                        OciDigest::of(format!("{lower} {}", descriptor.diff_id).as_bytes())
                    }
                };
                chain = Some(id.clone());
                layers.push(ImageLayer {
                    digest: descriptor.digest,
                    diff_id: descriptor.diff_id,
                    chain_id: id,
                    tree: root.to_string(),
                });
            }
        }
        self.stream.flush()?;
        let (files, bytes_plain) = tree.count();
        let items = self.items.into_iter().collect();
        Ok(Merged {
            trees,
            layers,
            items,
            staged: self.staged,
            hints: resolve(&tree, &needs, &self.program),
            files,
            bytes_compressed,
            bytes_plain,
        })
    }

    fn encode(&mut self, tree: &mut MergedTree) -> Result<TreeId, IngestError> {
        tree.encode(&mut |id, bytes: &[u8]| {
            self.staged.insert(id, bytes);
            self.add(ItemKind::Tree(id), bytes)
        })
    }

    fn add(&mut self, item: ItemKind, bytes: &[u8]) -> Result<(), IngestError> {
        if self.items.insert(item) {
            self.stream.add_metadata(item, bytes)?;
        }
        Ok(())
    }
}
