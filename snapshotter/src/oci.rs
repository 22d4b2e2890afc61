//! Where images come from: registries, OCI layouts and archives.
//!
//! A [`Source`] is what a user typed. [`open`] turns it into an [`ImageSource`], which resolves
//! the image for one platform and streams its layers:
//!
//! ```text
//! Source --open--> ImageSource --resolve--> ResolvedImage { manifest, config, layers }
//!                       `------open_blob(layer)--> verified bytes
//! ```
//!
//! Everything that a source delivers is hostile until its digest and size were checked. That
//! happens in two places for all kinds of source: [`VerifiedBlob`] for streams, and `resolve` for
//! documents. A kind of source only says how to find bytes ([`BlobProvider`]).

mod archive;
mod blob;
mod config;
mod credentials;
mod digest;
mod docker_archive;
mod error;
mod file_range;
mod layout;
mod manifest;
mod platform;
mod registry;
mod resolve;
mod rootfs;
mod source;
mod tar_index;
#[cfg(test)]
mod testing;

use std::sync::Arc;

pub use archive::OciArchive;
pub use blob::{BlobStream, VerifiedBlob};
pub use config::ImageConfig;
pub use credentials::{Credential, CredentialStore, CredentialsError};
pub use digest::{Algorithm, Hasher, OciDigest, OciDigestError};
pub use docker_archive::DockerArchive;
pub use error::OciError;
pub use layout::LayoutDirectory;
pub(crate) use layout::REF_NAME;
pub use manifest::{CONFIG_BYTES_MAX, Descriptor, LAYERS_MAX, LayerDescriptor, MANIFEST_BYTES_MAX};
pub(crate) use manifest::{NewManifest, OCI_MANIFEST, base_layers, layer_media_type};
pub use platform::{Platform, PlatformError};
pub use registry::{Registry, RegistryOptions};
pub use resolve::{BlobProvider, ImageSource, ResolvedImage, Root};
pub use rootfs::{PlainImage, plain_image};
pub use source::{ImageReference, Source, SourceError};

/// Opens the place that `source` names. A registry is not contacted before the first use.
///
/// # Errors
/// [`OciError::Unsupported`] for [`Source::Directory`], which has no manifest to resolve (see
/// [`plain_image`]); [`OciError::NotFound`], [`OciError::Malformed`] or [`OciError::Io`] when a
/// layout or an archive cannot be read.
pub async fn open(
    source: &Source,
    options: &RegistryOptions,
) -> Result<Arc<dyn ImageSource>, OciError> {
    Ok(match source {
        Source::Registry(reference) => Arc::new(Registry::new(reference.clone(), options)?),
        Source::Layout { directory, tag } => {
            Arc::new(LayoutDirectory::new(directory.clone(), tag.clone()))
        }
        Source::OciArchive { file, tag } => Arc::new(OciArchive::open(file, tag.clone()).await?),
        Source::DockerArchive { file, tag } => {
            Arc::new(DockerArchive::open(file, tag.as_deref()).await?)
        }
        Source::Directory(path) => {
            let path = path.display();
            return Err(OciError::Unsupported(format!(
                "dir:{path} has no image manifest"
            )));
        }
    })
}

#[cfg(test)]
mod tests;
