//! A snapshot as an image of the store: with the layers of the image that it started from and one
//! more, of which nothing but the digests is kept. Its tree is the snapshot's, so nothing is copied;
//! an export of the snapshot gives the very same image.

use std::sync::Arc;

use nacre_blobstore::{
    Clock, Digest, Lease, Record, RecordKind, Ref, read_ref, resolve_packs, secure, write_ref,
};

use super::{Export, ExportError, ExportOptions, Made, Scratch, Subject};
use crate::chains::link_chains;
use crate::daemon::Mountable;
use crate::image::{Image, ImageError, ImageLayer, ImagePayload, image_ref};
use crate::oci::OciDigest;
use crate::snapshot::SnapshotError;

impl Export {
    /// Returns the image called `options.name` if that is one with layers. Of anything else an image
    /// called `image` is made, so that its layers are found by their chain ids; the name is taken from
    /// whatever had it. Costs a read of what differs from the base image, to know the digest of a
    /// layer of it, and the requests for a lease, the record and the names.
    ///
    /// # Errors
    /// [`ExportError`]. The name then stands for what it stood for before.
    pub async fn as_image(
        &self,
        options: &ExportOptions,
        image: &str,
        clock: &Arc<dyn Clock>,
        holder: &str,
    ) -> Result<Image, ExportError> {
        match Image::find(&*self.store, &options.name).await {
            Ok(found) if !found.payload.layers.is_empty() => return Ok(found),
            Ok(_) | Err(ImageError::NotFound(_) | ImageError::Kind(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let lease_name = format!("image-{}", Digest::of(image.as_bytes()));
        let (store, time) = (Arc::clone(&self.store), Arc::clone(clock));
        let lease = Lease::acquire(store, time, &lease_name, holder).await;
        let lease = lease.map_err(SnapshotError::from)?;
        let made = self.publish(options, image, &**clock, &lease).await;
        // A lease that cannot be given back expires by itself.
        if let Err(error) = lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
        made?;
        Ok(Image::find(&*self.store, image).await?)
    }

    /// Writes the record, the refs of its layers, and its name.
    async fn publish(
        &self,
        options: &ExportOptions,
        image: &str,
        clock: &dyn Clock,
        lease: &Lease,
    ) -> Result<(), ExportError> {
        let subject = self.subject(options).await?;
        let scratch = Scratch::make(self.scratch.clone())?;
        let made = self.make(options, &subject, &scratch).await?;
        let (record, layers) = self.record(options, &subject, &made).await?;
        let reference = image_ref(image).map_err(SnapshotError::from)?;
        let stored = async {
            let store = &*self.store;
            let before = read_ref(store, &reference).await?;
            let id = record.write(store).await?;
            link_chains(store, clock, id, &layers).await?;
            let secured = secure(store, clock, id, &record, None).await?;
            lease.check()?;
            secured.check(clock)?;
            let target = Ref {
                record: id,
                changed_ms: clock.now_ms(),
            };
            let seen = before.as_ref().map(|(_, version)| version);
            write_ref(store, &reference, target, seen).await?;
            Ok::<_, SnapshotError>(())
        };
        Ok(stored.await?)
    }

    /// Makes the record: that of the base image with a layer more.
    async fn record(
        &self,
        options: &ExportOptions,
        subject: &Subject,
        made: &Made,
    ) -> Result<(Record, Vec<ImageLayer>), ExportError> {
        let (store, name) = (&*self.store, &options.name);
        let id = Mountable::locate(store, name).await?.record;
        let found = Mountable::read(store, name, id).await?;
        let tree = found
            .tree()
            .ok_or_else(|| ExportError::NoTree(name.clone()))?;
        let resolve = async |id, record: &Record| {
            let packs = resolve_packs(store, id, record).await;
            packs.map_err(|error| ExportError::from(SnapshotError::from(error)))
        };
        let mut record = Record {
            kind: RecordKind::Image,
            trees: Vec::new(),
            packs: resolve(id, &found.record).await?,
            metadata_images: found.record.metadata_images.clone(),
            payload: Vec::new(),
        };
        let (mut layers, mut bytes_compressed) = (Vec::new(), 0);
        if let Some((base, _)) = &subject.base {
            record.packs.extend(resolve(base.id, &base.record).await?);
            record.metadata_images.extend(&base.record.metadata_images);
            record.trees.clone_from(&base.record.trees);
            layers.clone_from(&base.payload.layers);
            bytes_compressed = base.payload.bytes_compressed;
        }
        if let Some(blob) = &made.layer {
            record.trees.push(tree);
            bytes_compressed += blob.size_bytes;
            layers.push(ImageLayer {
                digest: blob.digest.clone(),
                diff_id: blob.diff_id.clone(),
                chain_id: chain_id(layers.last(), &blob.diff_id),
                tree: tree.to_string(),
            });
        }
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec());
            text.map_err(|_| ExportError::Config("it is not UTF-8".to_owned()))
        };
        let payload = ImagePayload {
            manifest: text(&made.documents.manifest)?,
            manifest_digest: made.documents.digest(),
            media_type: made.media_type.clone(),
            config: text(&made.documents.config)?,
            layers: layers.clone(),
            // Of the base image: nobody walks the whole tree for these.
            files: subject
                .base
                .as_ref()
                .map_or(0, |(base, _)| base.payload.files),
            bytes_compressed,
            bytes_plain: (subject.base.as_ref()).map_or(0, |(base, _)| base.payload.bytes_plain),
        };
        let json = serde_json::to_vec(&payload);
        record.payload = json.map_err(|error| ExportError::Config(error.to_string()))?;
        Ok((record, layers))
    }
}

/// Names a layer and all below it (OCI image-spec, config.md, "Layer ChainID").
fn chain_id(below: Option<&ImageLayer>, diff_id: &OciDigest) -> OciDigest {
    match below {
        None => diff_id.clone(),
        Some(below) => OciDigest::of(format!("{} {diff_id}", below.chain_id).as_bytes()),
    }
}
