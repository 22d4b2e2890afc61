//! `nacre trace`: what starts of images read.

mod export;
mod html;
mod import;
mod record;
mod show;

use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, Origin, Reader, ReaderOptions, StoredTrace, TreeId, read_trace, trace_ref,
};
use nacre_snapshotter::Image;

use crate::args::TraceVerb;
use crate::failure::{Failure, NOT_FOUND, SUCCESS};
use crate::settings::Settings;

pub(crate) async fn trace(settings: &Settings, verb: TraceVerb) -> Result<u8, Failure> {
    match verb {
        TraceVerb::Record(arguments) => return record::record(settings, arguments).await,
        TraceVerb::Show(arguments) => show::show(settings, &arguments).await?,
        TraceVerb::Export(arguments) => export::export(settings, &arguments).await?,
        TraceVerb::Import(arguments) => import::import(settings, &arguments).await?,
    }
    Ok(SUCCESS)
}

/// Reads from the store, with the index that this root's ingests use.
pub(crate) async fn reader(
    settings: &Settings,
    store: Arc<dyn BlobStore>,
) -> Result<Reader, Failure> {
    let index = settings.open_index().await?;
    let origin = Arc::new(Origin::new(store));
    Ok(Reader::new(index, vec![origin], ReaderOptions::default()))
}

/// Finds an image and the root of its file system.
async fn find(store: &dyn BlobStore, verb: &str, name: &str) -> Result<(Image, TreeId), Failure> {
    let image = Image::find(store, name)
        .await
        .map_err(Failure::of(verb, name))?;
    let tree = image
        .tree()
        .ok_or_else(|| Failure::new(verb, name, &"it has no file system"))?;
    Ok((image, tree))
}

/// Reads the trace of a tree.
async fn find_trace(
    store: &dyn BlobStore,
    verb: &str,
    name: &str,
    tree: TreeId,
) -> Result<StoredTrace, Failure> {
    let stored = read_trace(store, &trace_ref(tree.digest())).await;
    stored.map_err(Failure::of(verb, name))?.ok_or_else(|| {
        Failure::new(verb, name, &"no start of it was recorded")
            .with_code(NOT_FOUND)
            .with_hint(format!("`nacre trace record {name}` records one"))
    })
}
