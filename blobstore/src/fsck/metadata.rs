//! The check of metadata images. One that is lost or damaged costs nodes the time to build it from
//! its tree, no data; it is a problem all the same, as its record names it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{FsckError, FsckReport, find_stray};
use crate::metadata_image::METADATA_FOLDER;
use crate::{
    BlobStore, MetadataImageError, MetadataImageId, Record, RecordId, StoreError,
    read_metadata_image,
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
        let checked = if read_data {
            let read = read_metadata_image(&**store, *tree, *image).await;
            read.map(drop)
        } else {
            let size = store.size(&image.key()).await;
            size.map(drop).map_err(MetadataImageError::Store)
        };
        match checked {
            Ok(()) => {}
            Err(MetadataImageError::Store(StoreError::NotFound(_))) => report
                .problems
                .push(format!("{}: needed by a record and not there", image.key())),
            Err(MetadataImageError::Store(error)) if error.is_retryable() => {
                return Err(error.into());
            }
            Err(error) => report.problems.push(format!("{}: {error}", image.key())),
        }
    }
    let kept: BTreeSet<MetadataImageId> = named.into_iter().map(|(image, _)| image).collect();
    find_stray(store, METADATA_FOLDER, &kept, report).await
}
