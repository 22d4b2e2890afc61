//! Writes OCI image layouts (OCI image-spec 1.1, image-layout.md), right ones and wrong ones.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Splits an archive into gzip members here.
const GZIP_MEMBER_BYTES: usize = 10_000;

/// How a layer is packed into a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    /// Several members one after the other, as pigz and estargz write.
    GzipMembers,
    Zstd,
}

/// A layer as it goes into a layout.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) diff_id: String,
    /// Digest in the manifest; also the blob's file name.
    pub(crate) digest: String,
}

impl Layer {
    pub(crate) fn new(tar: &[u8], packing: Packing) -> Self {
        let (media_type, blob) = match packing {
            Packing::Plain => ("application/vnd.oci.image.layer.v1.tar", tar.to_vec()),
            Packing::Gzip => ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(tar)),
            Packing::GzipMembers => {
                let members = tar.chunks(GZIP_MEMBER_BYTES).flat_map(gzip);
                (
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    members.collect(),
                )
            }
            Packing::Zstd => {
                let blob = zstd::encode_all(tar, 3).unwrap();
                ("application/vnd.oci.image.layer.v1.tar+zstd", blob)
            }
        };
        Self {
            diff_id: digest(tar),
            digest: digest(&blob),
            media_type,
            blob,
        }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Where the blob of a digest is.
pub(crate) fn blob_path(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// Writes a layout with one image, tagged `v1`. `config` is the config's `config` field.
pub(crate) fn write(layout: &Path, layers: &[Layer], config: &Value) {
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let put = |digest: &str, bytes: &[u8]| {
        std::fs::write(blob_path(layout, digest), bytes).unwrap();
    };
    let put_json = |media_type: &str, value: &Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        put(&digest(&bytes), &bytes);
        json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()})
    };
    for layer in layers {
        put(&layer.digest, &layer.blob);
    }
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let describe = |layer: &Layer| {
        let size = layer.blob.len();
        json!({"mediaType": layer.media_type, "digest": layer.digest, "size": size})
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put_json("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(describe).collect::<Vec<_>>(),
    });
    let mut descriptor = put_json("application/vnd.oci.image.manifest.v1+json", &manifest);
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .unwrap();
}
