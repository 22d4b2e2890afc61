//! Where the layers of images are: from a chain id to an image that has them.
//!
//! A ref `chains/CHAIN-ID` names the record of an image with these layers. It keeps nothing alive:
//! the image's own name does. When the image it names has no name any more, a collection of garbage
//! points it to another image with the same layers ([`relink_chains`]) or removes it, before
//! anything that it reaches may be deleted. Written before the image's own ref.

use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use nacre_blobstore::{
    BlobStore, CHAINS_NAMESPACE, Clock, Record, RecordError, RecordId, RecordKind, Ref, RefError,
    RefName, RefNameError, StoreError, delete_ref, list_refs, read_ref, write_ref,
};

use crate::image::{IMAGES_NAMESPACE, ImageLayer, ImagePayload};
use crate::oci::OciDigest;

/// Refs that are written or read at once.
const REFS_AT_ONCE: usize = 16;

/// Returns the ref of a chain id.
///
/// # Errors
/// [`RefNameError`] for text that can be no name.
fn chain_ref(chain_id: &str) -> Result<RefName, RefNameError> {
    format!("{CHAINS_NAMESPACE}/{chain_id}").parse()
}

/// Makes the layers of an image found by their chain ids. One request a layer.
///
/// # Errors
/// Those of the store. Some layers are then found and others not.
pub(crate) async fn link_chains(
    store: &dyn BlobStore,
    clock: &dyn Clock,
    image: RecordId,
    layers: &[ImageLayer],
) -> Result<(), RefError> {
    let target = Ref {
        record: image,
        changed_ms: clock.now_ms(),
    };
    stream::iter(layers)
        .map(Ok)
        .try_for_each_concurrent(REFS_AT_ONCE, |layer| async move {
            // A digest is always a name.
            let Ok(name) = chain_ref(&layer.chain_id.to_string()) else {
                return Ok(());
            };
            // Another image with these layers is as good.
            faster(write_ref(store, &name, target, None).await)
        })
        .await
}

/// Tells whether the layers of an image are found by their chain ids. One request.
///
/// # Errors
/// Those of the store.
pub(crate) async fn are_linked(
    store: &dyn BlobStore,
    layers: &[ImageLayer],
) -> Result<bool, RefError> {
    match layers.last() {
        None => Ok(true),
        Some(last) => Ok(find_chain(store, &last.chain_id.to_string())
            .await?
            .is_some()),
    }
}

/// Returns an image that has the layers of a chain id. One request.
///
/// # Errors
/// Those of the store.
pub(crate) async fn find_chain(
    store: &dyn BlobStore,
    chain_id: &str,
) -> Result<Option<RecordId>, RefError> {
    // What is no digest is asked for by nobody who means a layer.
    if OciDigest::from_str(chain_id).is_err() {
        return Ok(None);
    }
    let Ok(name) = chain_ref(chain_id) else {
        return Ok(None);
    };
    let found = read_ref(store, &name).await?;
    Ok(found.map(|(target, _)| target.record))
}

/// Why the chains of a store are not put in order.
#[derive(Debug, thiserror::Error)]
pub enum ChainsError {
    /// A ref cannot be read or changed.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The record of an image cannot be read.
    #[error("image {name}: {source}")]
    Record {
        /// Its ref.
        name: RefName,
        /// Why.
        source: RecordError,
    },
}

/// Puts the chains of a store in order: those whose image has no name any more are pointed to
/// another image with the same layers or removed, and those that are missing are made. To be called
/// before garbage is collected. Costs a listing of two namespaces, two requests for each image that
/// has a name, one for each chain, and one for each that changes.
///
/// # Errors
/// [`ChainsError`]; nothing is lost.
pub async fn relink_chains(store: &dyn BlobStore, clock: &dyn Clock) -> Result<(), ChainsError> {
    let mut named = HashSet::new();
    let mut missing = HashMap::new();
    // The chains first: one that is made meanwhile is not looked at.
    let chains = list_refs(store, Some(CHAINS_NAMESPACE)).await?;
    for name in list_refs(store, Some(IMAGES_NAMESPACE)).await? {
        let Some((target, _)) = read_ref(store, &name).await? else {
            continue;
        };
        if named.insert(target.record) {
            let chain_ids = chain_ids(store, &name, target.record).await?;
            missing.extend(chain_ids.into_iter().map(|id| (id, target.record)));
        }
    }
    let target = |record| Ref {
        record,
        changed_ms: clock.now_ms(),
    };
    for name in chains {
        let chain_id = name.as_str().split_once('/').map_or("", |(_, id)| id);
        let image = missing.remove(chain_id);
        let Some((found, version)) = read_ref(store, &name).await? else {
            continue;
        };
        if named.contains(&found.record) {
            continue;
        }
        match image {
            Some(image) => faster(write_ref(store, &name, target(image), Some(&version)).await)?,
            None => delete_ref(store, &name).await?,
        }
    }
    for (chain_id, image) in missing {
        if let Ok(name) = chain_ref(&chain_id) {
            faster(write_ref(store, &name, target(image), None).await)?;
        }
    }
    Ok(())
}

/// Whoever was faster to write a chain knows as well.
fn faster(written: Result<(), RefError>) -> Result<(), RefError> {
    match written {
        Err(RefError::Store {
            source: StoreError::Exists(_) | StoreError::Conflict(_),
            ..
        }) => Ok(()),
        written => written,
    }
}

async fn chain_ids(
    store: &dyn BlobStore,
    name: &RefName,
    id: RecordId,
) -> Result<Vec<String>, ChainsError> {
    let record = match Record::read(store, id).await {
        // Its name was taken away since.
        Err(RecordError::Store(StoreError::NotFound(_))) => return Ok(Vec::new()),
        record => record.map_err(|source| ChainsError::Record {
            name: name.clone(),
            source,
        })?,
    };
    if record.kind != RecordKind::Image {
        return Ok(Vec::new());
    }
    // What this version cannot read has no layers that it could serve.
    let payload = serde_json::from_slice::<ImagePayload>(&record.payload);
    let layers = payload.map(|payload| payload.layers).unwrap_or_default();
    Ok(layers.iter().map(|l| l.chain_id.to_string()).collect())
}

#[cfg(test)]
mod tests;
