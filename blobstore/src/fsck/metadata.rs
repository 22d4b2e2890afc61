//! The check of metadata images. One that is lost or damaged costs nodes the time to build it from
//! its tree, no data; it is a problem all the same, as its record names it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{FsckError, FsckReport, find_stray};
use crate::metadata_image::METADATA_FOLDER;
use crate::{
    BlobStore, MetadataImage, MetadataImageError, MetadataImageId, Record, RecordId, StoreError,
    TreeId, fetch_metadata_image,
};

/// Checks that the metadata images which records name are there, and right with `read_data`.
pub(super) async fn check(
    store: &Arc<dyn BlobStore>,
    records: &[(RecordId, Record)],
    read_data: bool,
    report: &mut FsckReport,
) -> Result<(), FsckError> {
    let named: BTreeSet<_> = records
        .iter()
        .flat_map(|(_, record)| &record.metadata_images)
        .map(|(tree, image)| (*image, *tree))
        .collect();
    for (image, tree) in &named {
        let found = if read_data {
            let fetched = fetch_metadata_image(&**store, *image).await;
            fetched.map(|bytes| read(*tree, *image, bytes).err())
        } else {
            store.size(&image.key()).await.map(|_| None)
        };
        let problem = match found {
            Ok(None) => continue,
            Ok(Some(damage)) => damage.to_string(),
            Err(StoreError::NotFound(_)) => "needed by a record and not there".to_owned(),
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        report.problems.push(format!("{}: {problem}", image.key()));
    }
    let kept: BTreeSet<MetadataImageId> = named.into_iter().map(|(image, _)| image).collect();
    find_stray(store, METADATA_FOLDER, &kept, report).await
}

fn read(tree: TreeId, id: MetadataImageId, bytes: Bytes) -> Result<(), MetadataImageError> {
    let image = MetadataImage::open(tree, id, bytes)?;
    image.write_to(&mut io::sink())?;
    image.hints().map(drop)
}
