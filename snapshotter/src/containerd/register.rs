//! Images of the store as images of containerd: manifest and config in its content store, and a
//! snapshot for each layer, attached as by a pull. No layer is copied.

use std::collections::HashMap;
use std::path::PathBuf;

use nacre_blobstore::Clock;

use super::client::{Client, Content, random};
use super::error::SnapshotsError;
use super::proto::Descriptor;
use crate::image::ImagePayload;
use crate::oci::OciDigest;

/// What containerd keeps for as long as it keeps what has such a label.
const REFERS_TO_CONTENT: &str = "containerd.io/gc.ref.content.";
const REFERS_TO_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// Where an image becomes known.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The socket of containerd.
    pub socket: PathBuf,
    /// The namespace.
    pub namespace: String,
    /// How containerd calls the snapshotter of this node.
    pub snapshotter: String,
    /// The name of the image.
    pub name: String,
}

/// Why an image is not made known to containerd.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegisterError(#[from] SnapshotsError);

impl RegisterError {
    /// Tells whether containerd could not be reached.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self.0, SnapshotsError::Unavailable(_))
    }
}

/// Makes an image of the store one of containerd's, under a name that is taken from whatever has
/// it. Doing it twice changes nothing. What a failure leaves goes within an hour, with its lease.
///
/// # Errors
/// [`RegisterError`] when containerd cannot be reached, or its snapshotter does not find a layer. The
/// name then stands for what it stood for before.
pub async fn register_image(
    image: &ImagePayload,
    to: &Registration,
    clock: &dyn Clock,
) -> Result<(), RegisterError> {
    let client = Client::connect(&to.socket, &to.namespace).await?;
    let client = client.under(None, clock).await?;
    let mut parent = String::new();
    for layer in &image.layers {
        let chain_id = layer.chain_id.to_string();
        client.attach(&to.snapshotter, &chain_id, &parent).await?;
        parent = chain_id;
    }
    let config = OciDigest::of(image.config.as_bytes());
    let snapshot = (format!("{REFERS_TO_SNAPSHOT}{}", to.snapshotter), parent);
    write(&client, &config, &image.config, &[snapshot].into()).await?;
    // As the client of containerd labels a manifest that it pulls.
    let mut labels = HashMap::from([(format!("{REFERS_TO_CONTENT}config"), config.to_string())]);
    for (number, layer) in image.layers.iter().enumerate() {
        let key = format!("{REFERS_TO_CONTENT}l.{number}");
        labels.insert(key, layer.digest.to_string());
    }
    write(&client, &image.manifest_digest, &image.manifest, &labels).await?;
    let target = Descriptor {
        media_type: image.media_type.clone(),
        digest: image.manifest_digest.to_string(),
        size: i64::try_from(image.manifest.len()).unwrap_or(i64::MAX),
        ..Descriptor::default()
    };
    Ok(client.name_image(&to.name, target).await?)
}

async fn write(
    client: &Client,
    digest: &OciDigest,
    text: &str,
    labels: &HashMap<String, String>,
) -> Result<(), SnapshotsError> {
    let reference = format!("nacre-{:016x}", random()?);
    let content = Content {
        digest,
        size_bytes: text.len() as u64,
        reference: &reference,
        labels,
    };
    client.write(content, text.as_bytes()).await
}
