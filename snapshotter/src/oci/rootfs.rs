//! The manifest and config of an image that never was one: a plain root file system.

use bytes::Bytes;
use serde::Serialize;

use super::digest::OciDigest;
use super::manifest::{Descriptor, NewManifest, layer_media_type};
use super::platform::Platform;
use crate::layer::Compression;

/// The documents of an image made from a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainImage {
    /// An OCI manifest.
    pub manifest: Bytes,
    /// Its digest.
    pub manifest_digest: OciDigest,
    /// An OCI image config.
    pub config: Bytes,
    /// Its digest.
    pub config_digest: OciDigest,
}

#[derive(Serialize)]
struct NewConfig {
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    config: Empty,
    rootfs: NewRootfs,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct NewRootfs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<OciDigest>,
}

/// Makes the documents of an image for `platform` that runs nothing by itself. `layer` is the
/// digest and the length in bytes of its one layer, a plain tar; without one the image has no
/// layers, for a root file system that is stored as a tree only.
///
/// Carries no time and no name: equal arguments give equal bytes.
pub fn plain_image(platform: &Platform, layer: Option<(OciDigest, u64)>) -> PlainImage {
    let config = NewConfig {
        architecture: platform.architecture().to_owned(),
        os: platform.os().to_owned(),
        variant: platform.variant().map(str::to_owned),
        config: Empty {},
        rootfs: NewRootfs {
            kind: "layers",
            diff_ids: layer.iter().map(|(digest, _)| digest.clone()).collect(),
        },
    };
    let config: Bytes = serde_json::to_vec(&config)
        .expect("plain structs become JSON")
        .into();
    let layer_type = layer_media_type(Compression::None);
    let layers = layer
        .into_iter()
        .map(|(digest, len)| Descriptor::new(layer_type, digest, len));
    let manifest = NewManifest::encode(&config, layers.collect());
    PlainImage {
        manifest_digest: OciDigest::of(&manifest),
        manifest,
        config_digest: OciDigest::of(&config),
        config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::config::ImageConfig;
    use crate::oci::manifest::Document;

    #[test]
    fn the_documents_are_sound_and_always_the_same() {
        let platform: Platform = "linux/arm/v6".parse().unwrap();
        let layer = OciDigest::of(b"tar");
        let image = plain_image(&platform, Some((layer.clone(), 3)));
        assert_eq!(image, plain_image(&platform, Some((layer.clone(), 3))));
        let config = ImageConfig::parse(&image.config).unwrap();
        assert_eq!(
            (config.os.as_str(), config.variant.as_str()),
            ("linux", "v6")
        );
        assert_eq!(config.diff_ids, [layer]);
        let parsed = Document::parse(&image.manifest, "", "x").unwrap();
        assert!(matches!(parsed, Document::Image(m) if m.config.digest == image.config_digest));
        // Golden: a change here changes the identity of every image made from a directory.
        let empty = plain_image(&"linux/amd64".parse().unwrap(), None);
        assert_eq!(
            empty.config,
            r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#
        );
    }
}
