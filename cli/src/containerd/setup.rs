//! `nacre containerd setup`.

use std::path::Path;

use nacre_blobstore::publish;
use toml::Table;

use super::config::{Plugin, is_known};
use super::version::Version;
use crate::args::ContainerdSetup;
use crate::failure::{Failure, USAGE};
use crate::info::{mode_name, trial};
use crate::output;
use crate::settings::Settings;

pub(super) fn setup(settings: &Settings, arguments: &ContainerdSetup) -> Result<(), Failure> {
    let version = match &arguments.containerd_version {
        Some(text) => Version::parse(text).ok_or_else(|| {
            Failure::new("set up", "containerd", &format!("{text:?} is no version"))
                .with_code(USAGE)
        })?,
        None => Version::installed().map_err(|error| {
            Failure::new("set up", "containerd", &error)
                .with_hint("give its version: --containerd-version 2.2".to_owned())
        })?,
    };
    if !is_known(version) {
        let cause = format!("{version} is not between 1.6 and 2.4");
        return Err(Failure::new("set up", "containerd", &cause));
    }
    let socket = settings.snapshotter_socket();
    let root = settings.root.clone();
    let text = |path: &Path| {
        let text = path.to_str().map(ToOwned::to_owned);
        text.ok_or_else(|| Failure::new("set up", "containerd", &"the root is not UTF-8"))
    };
    let (socket, root) = (text(&socket)?, text(&root)?);
    let plugin = Plugin {
        version,
        name: &arguments.name,
        socket: &socket,
        root: &root,
    };
    let (mode, reason) = trial(settings);
    output::note(&format!(
        "containerd {version}; trees are served by {}: {reason}",
        mode_name(mode)
    ));
    match &arguments.write {
        Some(path) => write(&plugin, path),
        None => {
            let config = applied(&plugin, Table::new(), "containerd")?;
            output::note("add this to containerd's config.toml, then restart containerd:");
            output::line(config.trim_end())
        }
    }
}

fn applied(plugin: &Plugin<'_>, mut config: Table, object: &str) -> Result<String, Failure> {
    plugin.apply(&mut config).map_err(|path| {
        Failure::new(
            "set up",
            object,
            &format!("the setting {path} is in the way"),
        )
    })?;
    toml::to_string_pretty(&config).map_err(|error| Failure::new("set up", object, &error))
}

fn write(plugin: &Plugin<'_>, path: &Path) -> Result<(), Failure> {
    let object = path.display().to_string();
    let fail = |error: std::io::Error| Failure::new("change", &object, &error);
    let before = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.map_err(fail)?),
    };
    let config = match &before {
        Some(text) => text
            .parse()
            .map_err(|error: toml::de::Error| Failure::new("read", &object, &error.message()))?,
        None => Table::new(),
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".before-nacre");
    let config = applied(plugin, config, &object)?;
    if before.as_ref() == Some(&config) {
        output::note(&format!("{object} has these settings already"));
        return Ok(());
    }
    if let Some(before) = before
        && !Path::new(&name).exists()
    {
        publish(Path::new(&name), before.as_bytes()).map_err(fail)?;
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    publish(path, config.as_bytes()).map_err(fail)?;
    output::note(&format!(
        "changed {object}; restart containerd: systemctl restart containerd"
    ));
    Ok(())
}
