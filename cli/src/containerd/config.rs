//! What containerd has to be told, version by version.

use toml::{Table, Value};

use super::version::Version;

/// The first and the last version that this was tried with, but for patches.
const FIRST: Version = Version::new(1, 6, 0);
const AFTER_LAST: Version = Version::new(2, 5, 0);
/// The plugin that serves Kubernetes, up to 1.7 and since.
const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const TRANSFER: &str = "io.containerd.transfer.v1.local";
/// What asks differs, and the one that containerd has itself.
const DIFF: &str = "io.containerd.service.v1.diff-service";
const WALKING: &str = "walking";
/// The first that knows differs of others.
const KNOWS_DIFFERS: Version = Version::new(1, 7, 4);

/// What to tell.
#[derive(Debug)]
pub(super) struct Plugin<'a> {
    pub(super) version: Version,
    /// How containerd calls it.
    pub(super) name: &'a str,
    pub(super) socket: &'a str,
    pub(super) root: &'a str,
}

/// Tells whether there are settings for a version.
pub(super) fn is_known(version: Version) -> bool {
    (FIRST..AFTER_LAST).contains(&version)
}

impl Plugin<'_> {
    /// Makes the settings in `config`; all others stay.
    ///
    /// # Errors
    /// The path of a setting that is in the way.
    pub(super) fn apply(&self, config: &mut Table) -> Result<(), String> {
        let is_2 = self.version.major >= 2;
        let syntax = if is_2 { 3 } else { 2 };
        let entry = config.entry("version");
        let found = entry.or_insert(Value::Integer(syntax)).as_integer();
        if found.is_none_or(|found| found < syntax) {
            return Err(format!("version, which must be {syntax}"));
        }
        let plugin = at(config, &["proxy_plugins", self.name])?;
        put(plugin, "type", "snapshot");
        put(plugin, "address", self.socket);
        // Whose disk is full when images take too much; older ones refuse to read it.
        if self.knows_exports() {
            let exports = at(plugin, &["exports"])?;
            put(exports, "root", self.root);
            if self.version >= Version::new(2, 1, 0) {
                put(exports, "enable_remote_snapshot_annotations", "true");
            }
        }
        if self.version >= KNOWS_DIFFERS {
            self.add_differ(config)?;
        }
        let cri: &[&str] = if is_2 {
            &["plugins", CRI_IMAGES]
        } else {
            &["plugins", CRI, "containerd"]
        };
        let cri = at(config, cri)?;
        put(cri, "snapshotter", self.name);
        if self.version < Version::new(2, 1, 0) {
            // Later ones tell the plugin's exports, and pull in another way with this.
            cri.insert("disable_snapshot_annotations".to_owned(), false.into());
        }
        if is_2 {
            self.add_unpacking(at(config, &["plugins", TRANSFER])?)?;
        }
        Ok(())
    }

    /// Has layers made by this node where it can, and else as before. A plugin has one type.
    fn add_differ(&self, config: &mut Table) -> Result<(), String> {
        let name = format!("{}-diff", self.name);
        let plugin = at(config, &["proxy_plugins", &name])?;
        put(plugin, "type", "diff");
        put(plugin, "address", self.socket);
        let service = at(config, &["plugins", DIFF])?;
        let order = service
            .entry("default")
            .or_insert_with(|| vec![Value::from(WALKING)].into());
        let order = order.as_array_mut().ok_or_else(|| "default".to_owned())?;
        if !order.iter().any(|known| known.as_str() == Some(&name)) {
            order.insert(0, name.into());
        }
        Ok(())
    }

    fn knows_exports(&self) -> bool {
        let version = self.version;
        let from = match (version.major, version.minor) {
            (1, 6) => Version::new(1, 6, 32),
            (1, _) => Version::new(1, 7, 16),
            _ => Version::new(2, 0, 0),
        };
        version >= from
    }

    /// Has the transfer service unpack for this snapshotter, beside those it did before: with
    /// containerd's own differ, for it would take any.
    fn add_unpacking(&self, transfer: &mut Table) -> Result<(), String> {
        let entry = |snapshotter: &str| {
            let mut entry = Table::new();
            put(&mut entry, "platform", "linux");
            put(&mut entry, "snapshotter", snapshotter);
            put(&mut entry, "differ", WALKING);
            Value::Table(entry)
        };
        let known = transfer
            .entry("unpack_config")
            // What it has unless something is said.
            .or_insert_with(|| vec![entry("overlayfs")].into());
        let known = known
            .as_array_mut()
            .ok_or_else(|| "unpack_config".to_owned())?;
        let is_ours =
            |value: &Value| value.get("snapshotter").and_then(Value::as_str) == Some(self.name);
        if !known.iter().any(is_ours) {
            known.push(entry(self.name));
        }
        for entry in known.iter_mut().filter_map(Value::as_table_mut) {
            let differ = entry.entry("differ");
            differ.or_insert_with(|| WALKING.into());
        }
        Ok(())
    }
}

/// Returns the table at a path, made if it is not there.
fn at<'a>(table: &'a mut Table, path: &[&str]) -> Result<&'a mut Table, String> {
    let mut table = table;
    for name in path {
        let entry = table.entry(*name).or_insert_with(|| Table::new().into());
        table = entry.as_table_mut().ok_or_else(|| path.join("."))?;
    }
    Ok(table)
}

fn put(table: &mut Table, name: &str, value: &str) {
    table.insert(name.to_owned(), value.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(version: (u32, u32, u32), before: &str) -> Result<Table, String> {
        let (major, minor, patch) = version;
        let plugin = Plugin {
            version: Version::new(major, minor, patch),
            name: "nacre",
            socket: "/n/snapshotter.sock",
            root: "/n",
        };
        let mut config = before.parse().unwrap();
        plugin.apply(&mut config).map(|()| config)
    }

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn each_version_gets_what_it_knows() {
        let plain = table(
            r#"version = 2
            [proxy_plugins.nacre]
            type = "snapshot"
            address = "/n/snapshotter.sock"
            [plugins."io.containerd.grpc.v1.cri".containerd]
            snapshotter = "nacre"
            disable_snapshot_annotations = false"#,
        );
        assert_eq!(settings((1, 6, 20), "").unwrap(), plain);
        let with_root = settings((1, 7, 16), "").unwrap();
        let older = settings((1, 7, 3), "").unwrap();
        for (settings, has_differ) in [(&older, false), (&with_root, true)] {
            let plugins = settings["proxy_plugins"].as_table().unwrap();
            assert_eq!(plugins.contains_key("nacre-diff"), has_differ);
            let plugins = settings["plugins"].as_table().unwrap();
            assert_eq!(plugins.contains_key(DIFF), has_differ);
        }
        assert_eq!(
            with_root["proxy_plugins"]["nacre"]["exports"],
            table("root = '/n'").into()
        );
        assert!(!is_known(Version::new(1, 5, 9)) && is_known(Version::new(2, 4, 99)));
        let latest = table(
            r#"version = 3
            [proxy_plugins.nacre]
            type = "snapshot"
            address = "/n/snapshotter.sock"
            [proxy_plugins.nacre.exports]
            root = "/n"
            enable_remote_snapshot_annotations = "true"
            [proxy_plugins.nacre-diff]
            type = "diff"
            address = "/n/snapshotter.sock"
            [plugins."io.containerd.service.v1.diff-service"]
            default = ["nacre-diff", "walking"]
            [plugins."io.containerd.cri.v1.images"]
            snapshotter = "nacre"
            [[plugins."io.containerd.transfer.v1.local".unpack_config]]
            platform = "linux"
            snapshotter = "overlayfs"
            differ = "walking"
            [[plugins."io.containerd.transfer.v1.local".unpack_config]]
            platform = "linux"
            snapshotter = "nacre"
            differ = "walking""#,
        );
        assert_eq!(settings((2, 4, 0), "").unwrap(), latest);
        let middle = settings((2, 0, 5), "").unwrap();
        let images = &middle["plugins"][CRI_IMAGES];
        assert_eq!(
            images["disable_snapshot_annotations"].as_bool(),
            Some(false)
        );
    }

    #[test]
    fn other_settings_stay_and_twice_is_once() {
        let before = r#"version = 3
            root = "/c"
            [proxy_plugins.other]
            type = "content"
            [plugins."io.containerd.cri.v1.images"]
            snapshotter = "overlayfs"
            max_concurrent_downloads = 7
            [plugins."io.containerd.service.v1.diff-service"]
            default = ["other", "walking"]
            [[plugins."io.containerd.transfer.v1.local".unpack_config]]
            snapshotter = "other"
            differ = "other""#;
        let once = settings((2, 2, 0), before).unwrap();
        assert_eq!(once["root"].as_str(), Some("/c"));
        assert_eq!(
            once["proxy_plugins"]["other"]["type"].as_str(),
            Some("content")
        );
        let images = &once["plugins"][CRI_IMAGES];
        assert_eq!(images["max_concurrent_downloads"].as_integer(), Some(7));
        assert_eq!(images["snapshotter"].as_str(), Some("nacre"));
        let differs = &once["plugins"][DIFF]["default"];
        assert_eq!(
            differs.as_array().unwrap(),
            &["nacre-diff", "other", "walking"].map(Value::from)
        );
        let unpacking = once["plugins"][TRANSFER]["unpack_config"]
            .as_array()
            .unwrap();
        let with = unpacking
            .iter()
            .map(|entry| entry["differ"].as_str().unwrap());
        assert_eq!(with.collect::<Vec<_>>(), ["other", "walking"]);
        let twice = settings((2, 2, 0), &toml::to_string(&once).unwrap()).unwrap();
        assert_eq!(twice, once);
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let refused = settings((1, 6, 0), "version = 1").unwrap_err();
        assert!(refused.contains("version"));
        let refused = settings((1, 6, 0), "proxy_plugins = 1").unwrap_err();
        assert_eq!(refused, "proxy_plugins.nacre");
    }
}
