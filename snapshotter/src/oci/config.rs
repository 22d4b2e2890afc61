//! The parts of an image config that running the image needs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};

use super::digest::OciDigest;
use super::error::OciError;

/// What an image says of how to run it. Absent and `null` fields are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `linux`, in OCI's names; empty when the config states none.
    pub os: String,
    /// The processor, in OCI's names; empty when the config states none.
    pub architecture: String,
    /// The processor's variant.
    pub variant: String,
    /// When the image was built (RFC 3339), as the config says.
    pub created: String,
    /// `USER[:GROUP]`, names or numbers; empty means root.
    pub user: String,
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// What runs before [`cmd`](Self::cmd), which then is its arguments.
    pub entrypoint: Vec<String>,
    /// What runs when the user gives no command.
    pub cmd: Vec<String>,
    /// Where it runs; empty means `/`.
    pub working_dir: String,
    /// What asks it to stop, a name or a number; empty means SIGTERM.
    pub stop_signal: String,
    /// `PORT[/PROTOCOL]` each.
    pub exposed_ports: BTreeSet<String>,
    /// Paths that docker would put on volumes of their own.
    pub volumes: BTreeSet<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The digests of the layers' plain tars, lowest first.
    pub diff_ids: Vec<OciDigest>,
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(default, deserialize_with = "or_null")]
    os: String,
    #[serde(default, deserialize_with = "or_null")]
    architecture: String,
    #[serde(default, deserialize_with = "or_null")]
    variant: String,
    #[serde(default, deserialize_with = "or_null")]
    created: String,
    #[serde(default, deserialize_with = "or_null")]
    config: RawConfig,
    rootfs: Option<RawRootfs>,
}

/// Docker's spelling of the field names, which OCI took over.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "or_null")]
    user: String,
    #[serde(deserialize_with = "or_null")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_null")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_null")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_null")]
    working_dir: String,
    #[serde(deserialize_with = "or_null")]
    stop_signal: String,
    #[serde(deserialize_with = "or_null")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_null")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_null")]
    labels: BTreeMap<String, Option<String>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type", default, deserialize_with = "or_null")]
    kind: String,
    #[serde(default, deserialize_with = "or_null")]
    diff_ids: Vec<OciDigest>,
}

/// Reads `null` as the empty value: Go writes nil slices and maps so.
fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl ImageConfig {
    /// Parses a config as pulled.
    ///
    /// # Errors
    /// [`OciError::Malformed`] for a text that is not a config, and [`OciError::Unsupported`] when
    /// it has no root file system made of layers.
    pub fn parse(json: &[u8]) -> Result<Self, OciError> {
        let raw: RawImage = serde_json::from_slice(json)
            .map_err(|error| OciError::malformed("the image config", error))?;
        let no_rootfs = || OciError::Unsupported("the image config has no rootfs layers".into());
        let rootfs = raw.rootfs.ok_or_else(no_rootfs)?;
        if !matches!(rootfs.kind.as_str(), "layers" | "") {
            return Err(no_rootfs());
        }
        let labels = raw
            .config
            .labels
            .into_iter()
            .map(|(k, v)| (k, v.unwrap_or_default()));
        Ok(Self {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant,
            created: raw.created,
            user: raw.config.user,
            env: raw.config.env,
            entrypoint: raw.config.entrypoint,
            cmd: raw.config.cmd,
            working_dir: raw.config.working_dir,
            stop_signal: raw.config.stop_signal,
            exposed_ports: raw.config.exposed_ports.into_keys().collect(),
            volumes: raw.config.volumes.into_keys().collect(),
            labels: labels.collect(),
            diff_ids: rootfs.diff_ids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_config_is_read() {
        let digest = OciDigest::of(b"layer");
        let json = format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"v8","created":"2024-01-01T00:00:00Z",
            "config":{{"User":"1000:100","Env":["A=b"],"Entrypoint":["/init"],"Cmd":["-x"],
            "WorkingDir":"/srv","StopSignal":"SIGQUIT","ExposedPorts":{{"80/tcp":{{}}}},
            "Volumes":{{"/data":{{}}}},"Labels":{{"k":"v"}},"OnBuild":null}},
            "rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[]}}"#
        );
        let config = ImageConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(
            (config.user.as_str(), config.working_dir.as_str()),
            ("1000:100", "/srv")
        );
        assert_eq!(
            (config.entrypoint, config.cmd),
            (vec!["/init".into()], vec!["-x".into()])
        );
        assert_eq!(
            config.exposed_ports.into_iter().collect::<Vec<_>>(),
            ["80/tcp"]
        );
        assert_eq!(config.labels["k"], "v");
        assert_eq!(config.stop_signal, "SIGQUIT");
        assert_eq!(config.diff_ids, [digest]);
    }

    #[test]
    fn nulls_and_absence_are_empty() {
        for json in [
            r#"{"rootfs":{"type":"layers","diff_ids":null}}"#,
            r#"{"os":null,"config":null,"rootfs":{"type":"layers"}}"#,
            r#"{"config":{"Env":null,"Cmd":null,"Labels":null,"User":null,"Volumes":null},
                "rootfs":{"type":"layers","diff_ids":[]}}"#,
        ] {
            assert_eq!(
                ImageConfig::parse(json.as_bytes()).unwrap(),
                ImageConfig::default()
            );
        }
    }

    #[test]
    fn what_is_no_image_config_is_refused() {
        for json in ["", "[]", "{", r#"{"config":{"Env":"A"},"rootfs":{}}"#] {
            assert!(matches!(
                ImageConfig::parse(json.as_bytes()),
                Err(OciError::Malformed { .. })
            ));
        }
        for json in ["{}", r#"{"rootfs":{"type":"zip","diff_ids":[]}}"#] {
            assert!(matches!(
                ImageConfig::parse(json.as_bytes()),
                Err(OciError::Unsupported(_))
            ));
        }
    }
}
