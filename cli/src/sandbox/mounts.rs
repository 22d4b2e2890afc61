//! `--mount`: what is shown in a sandbox beside its root file system.

use nacre_launcher::{ExtraMount, TreeMount, VolumeVersion};
use nacre_snapshotter::OpenedVolume;

use crate::args::MountMode;
use crate::failure::{Failure, USAGE};
use crate::node;
use crate::settings::Settings;

/// A mount as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A name or an id, or with a leading slash a directory of the host.
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Mounts that can be shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Opened {
    pub(crate) host: Vec<ExtraMount>,
    pub(crate) trees: Vec<TreeMount>,
}

/// Reads all `N:PATH[:ro]` of a command line.
pub(crate) fn parse(texts: &[String]) -> Result<Vec<Asked>, Failure> {
    let mut mounts: Vec<Asked> = Vec::new();
    for text in texts {
        let usage = |cause: &str| Failure::new("mount", text, &cause).with_code(USAGE);
        let asked = parse_one(text).map_err(usage)?;
        if mounts.iter().any(|mount| mount.target == asked.target) {
            return Err(usage("another one is mounted there"));
        }
        mounts.push(asked);
    }
    Ok(mounts)
}

fn parse_one(text: &str) -> Result<Asked, &'static str> {
    let (text, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    // Names have colons in them, too.
    let at = text.find(":/").filter(|at| *at > 0);
    let at = at.ok_or("it is not N:PATH[:ro] with an absolute PATH")?;
    let (source, target) = (&text[..at], &text[at + 1..]);
    Ok(Asked {
        source: source.to_owned(),
        target: normal(target)?,
        read_only,
    })
}

/// Takes doubled and trailing slashes away; refuses what is no place for a mount.
pub(crate) fn normal(target: &str) -> Result<String, &'static str> {
    if !target.starts_with('/') {
        return Err("the path is not absolute");
    }
    let names: Vec<_> = target.split('/').filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Err("the root is the sandbox's own");
    }
    if names.iter().any(|name| matches!(*name, "." | "..")) {
        return Err("the path has `.` or `..` in it");
    }
    Ok(format!("/{}", names.join("/")))
}

/// Makes all readable on this node.
pub(crate) async fn open(
    settings: &Settings,
    asked: Vec<Asked>,
    mode: MountMode,
) -> Result<Opened, Failure> {
    let mut opened = Opened::default();
    for mount in asked {
        if mount.source.starts_with('/') {
            opened.host.push(ExtraMount {
                source: mount.source.into(),
                target: mount.target.into(),
                read_only: mount.read_only,
            });
        } else {
            opened.trees.push(open_tree(settings, mount, mode).await?);
        }
    }
    Ok(opened)
}

/// Makes an image, a snapshot or a volume readable on this node.
pub(crate) async fn open_tree(
    settings: &Settings,
    mount: Asked,
    mode: MountMode,
) -> Result<TreeMount, Failure> {
    let opened = node::open_image(settings, &mount.source, mode.wanted())
        .await?
        .map_err(Failure::of("mount", &mount.source))?;
    let version = |volume: OpenedVolume| VolumeVersion {
        id: volume.id,
        version: volume.version,
        record: opened.image.clone(),
        tree: opened.tree.clone(),
    };
    Ok(TreeMount {
        volume: opened.volume.map(version),
        target: mount.target,
        name: mount.source,
        opened_from: opened.image,
        read_only: mount.read_only,
        lower: opened.lower,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_colons_and_paths_are_normal() {
        for (text, source, target, read_only) in [
            ("pyapp:v1:/opt", "pyapp:v1", "/opt", false),
            ("pyapp:v1:/opt//a/:ro", "pyapp:v1", "/opt/a", true),
            ("/srv/data:/x", "/srv/data", "/x", false),
            ("h:5000/a:v1:/a:b", "h:5000/a:v1", "/a:b", false),
            ("v:/ro", "v", "/ro", false),
        ] {
            let asked = parse_one(text).unwrap();
            assert_eq!(
                (&*asked.source, &*asked.target, asked.read_only),
                (source, target, read_only),
                "{text}"
            );
        }
        for bad in [
            "", "v", ":/a", "v:a", "v:/", "v://", "v:/a/..", "v:/./a", "v:ro", "v:/:ro",
        ] {
            assert!(parse_one(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_place_holds_one_mount() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(parse(&texts(&["a:/x", "b:/x/y"])).unwrap().len(), 2);
        assert!(parse(&texts(&["a:/x", "b://x/"])).is_err());
    }
}
