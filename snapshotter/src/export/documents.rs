//! Manifest and config of an image with a new layer on top.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::ExportError;
use super::blob::Blob;
use crate::layer::Compression;
use crate::oci::{Descriptor, NewManifest, OciDigest, base_layers, layer_media_type};

/// What the history of the new layer says of its origin.
const CREATED_BY: &str = "nacre snapshot export";

/// What is written beside the layers.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    pub(super) config: Bytes,
    pub(super) manifest: Bytes,
    /// All layers, lowest first, with OCI's media types.
    pub(super) layers: Vec<Descriptor>,
}

/// The new layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Top<'a> {
    pub(super) blob: &'a Blob,
    pub(super) compression: Compression,
    /// When the snapshot was made, in milliseconds since 1970; of an image that is not known.
    pub(super) created_ms: Option<u64>,
}

/// Puts a layer on an image. Media types become OCI's, whatever they were; digests stay.
///
/// # Errors
/// [`ExportError::Oci`] for a manifest or config that is none.
pub(super) fn on_base(
    manifest: &str,
    config: &str,
    top: Top<'_>,
) -> Result<Documents, ExportError> {
    let mut layers = base_layers(manifest.as_bytes())?;
    layers.push(descriptor(top));
    let mut config = parse(config)?;
    let diff_ids = config
        .get_mut("rootfs")
        .and_then(|rootfs| rootfs.get_mut("diff_ids"))
        .and_then(Value::as_array_mut);
    let diff_ids = diff_ids.ok_or_else(|| malformed("it has no diff_ids"))?;
    diff_ids.push(json!(top.blob.diff_id));
    // A history says of each layer where it is from, or of none.
    if let Some(history) = config.get_mut("history").and_then(Value::as_array_mut) {
        history.push(history_of(top));
    }
    Ok(finish(config, layers, top))
}

/// Makes an image of one layer, to be run as the config says.
///
/// # Errors
/// As for [`on_base`].
pub(super) fn flat(config: &str, top: Top<'_>) -> Result<Documents, ExportError> {
    let mut config = parse(config)?;
    let rootfs = json!({ "type": "layers", "diff_ids": [top.blob.diff_id] });
    config.insert("rootfs".to_owned(), rootfs);
    config.insert("history".to_owned(), json!([history_of(top)]));
    Ok(finish(config, vec![descriptor(top)], top))
}

fn parse(config: &str) -> Result<Map<String, Value>, ExportError> {
    serde_json::from_str(config).map_err(|error| malformed(&error.to_string()))
}

fn malformed(reason: &str) -> ExportError {
    ExportError::Config(reason.to_owned())
}

fn finish(mut config: Map<String, Value>, layers: Vec<Descriptor>, top: Top<'_>) -> Documents {
    if let Some(ms) = top.created_ms {
        config.insert("created".to_owned(), json!(rfc3339(ms)));
    }
    let config: Bytes = Value::Object(config).to_string().into();
    let manifest = NewManifest::encode(&config, layers.clone());
    Documents {
        config,
        manifest,
        layers,
    }
}

fn descriptor(top: Top<'_>) -> Descriptor {
    let media_type = layer_media_type(top.compression);
    Descriptor::new(media_type, top.blob.digest.clone(), top.blob.size_bytes)
}

fn history_of(top: Top<'_>) -> Value {
    let mut history = json!({ "created_by": CREATED_BY });
    if let Some(ms) = top.created_ms {
        history["created"] = json!(rfc3339(ms));
    }
    history
}

impl Documents {
    pub(super) fn digest(&self) -> OciDigest {
        OciDigest::of(&self.manifest)
    }
}

/// Writes a time as RFC 3339 has it, in UTC. The calendar is computed as in "Euclidean affine
/// functions and their application to calendar algorithms" (Neri, Schneider 2022), which counts
/// years from March.
pub(crate) fn rfc3339(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01.
    let n1 = 4 * (days + 719_468) + 3;
    let (century, n2) = (n1 / 146_097, (n1 % 146_097) / 4 * 4 + 3);
    let (year, day_of_year) = (n2 / 1461, n2 % 1461 / 4);
    let n3 = 5 * day_of_year + 2;
    let (month, day) = (n3 / 153, n3 % 153 / 5 + 1);
    let (year, month) = match month {
        0..10 => (100 * century + year, month + 3),
        _ => (100 * century + year + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_799, "2000-02-29T23:59:59.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_704_067_199, "2023-12-31T23:59:59.007Z"),
            (1_709_164_800, "2024-02-29T00:00:00.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1000 + 7), text);
        }
    }

    fn blob() -> Blob {
        Blob {
            digest: OciDigest::of(b"blob"),
            size_bytes: 4,
            diff_id: OciDigest::of(b"tar"),
        }
    }

    #[test]
    fn a_layer_on_top_leaves_those_below_and_the_config_as_they_are() {
        let base = OciDigest::of(b"base");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": OciDigest::of(b"{}"), "size": 2,
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "digest": base, "size": 7, "annotations": {"a": "b"},
            }],
        });
        let config = json!({
            "architecture": "amd64", "os": "linux", "unknown": {"kept": true},
            "config": {"Cmd": ["x"]}, "history": [{"created_by": "base"}],
            "rootfs": {"type": "layers", "diff_ids": ["sha256:base"]},
        });
        let blob = blob();
        let top = Top {
            blob: &blob,
            compression: Compression::Zstd,
            created_ms: Some(0),
        };
        let made = on_base(&manifest.to_string(), &config.to_string(), top).unwrap();
        let config: Value = serde_json::from_slice(&made.config).unwrap();
        assert_eq!(config["unknown"]["kept"], true);
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!(["sha256:base", blob.diff_id])
        );
        assert_eq!(config["history"].as_array().unwrap().len(), 2);
        let manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
        assert_eq!(
            manifest["layers"][0],
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": base, "size": 7, "annotations": {"a": "b"},
            })
        );
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
        assert_eq!(manifest["layers"][1]["mediaType"], media_type);
        assert_eq!(
            manifest["config"]["digest"],
            json!(OciDigest::of(&made.config))
        );

        let made = flat(&config.to_string(), top).unwrap();
        let config: Value = serde_json::from_slice(&made.config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([blob.diff_id]));
        assert_eq!(config["history"].as_array().unwrap().len(), 1);
        assert_eq!(made.layers.len(), 1);
    }

    #[test]
    fn what_is_no_config_is_refused() {
        let blob = blob();
        let top = Top {
            blob: &blob,
            compression: Compression::Gzip,
            created_ms: Some(0),
        };
        assert!(flat("[]", top).is_err());
        let manifest = String::from_utf8(NewManifest::encode(b"{}", Vec::new()).to_vec()).unwrap();
        for config in ["", "{}", r#"{"rootfs":{"diff_ids":{}}}"#] {
            assert!(on_base(&manifest, config, top).is_err(), "{config}");
        }
    }
}
