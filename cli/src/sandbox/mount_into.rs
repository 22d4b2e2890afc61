//! `nacre mount-into` and `nacre umount-from`: trees that come to and go from running sandboxes.

use super::launcher;
use super::mounts::{self, Asked};
use crate::args::{MountInto, UmountFrom};
use crate::failure::{Failure, USAGE};
use crate::output;
use crate::settings::Settings;

pub(crate) async fn mount_into(settings: &Settings, arguments: &MountInto) -> Result<(), Failure> {
    let began = settings.clock.elapsed();
    let sandbox = &arguments.sandbox;
    let object = format!("{} into {sandbox}", arguments.name);
    let asked = Asked {
        source: arguments.name.clone(),
        target: place(&object, &arguments.path)?,
        read_only: arguments.ro,
    };
    if asked.source.starts_with('/') {
        let cause = "a directory of the host is shown from the start on, by `run --mount`";
        return Err(Failure::new("mount", &object, &cause).with_code(USAGE));
    }
    let launcher = launcher(settings)?;
    launcher
        .inspect(sandbox)
        .map_err(Failure::of("mount", &object))?;
    let tree = mounts::open_tree(settings, asked, arguments.mode).await?;
    let (image, path) = (tree.opened_from.clone(), tree.target.clone());
    let version = tree.volume.as_ref().map(|volume| volume.version);
    let locked = launcher
        .lock_mounts(sandbox)
        .map_err(Failure::of("mount", &object))?;
    let mounted = locked.mount(tree).await;
    mounted.map_err(Failure::of("mount", &object))?;
    let seconds = settings.clock.elapsed().saturating_sub(began).as_secs_f64();
    if settings.json {
        let report = serde_json::json!({
            "sandbox": sandbox, "path": path, "name": arguments.name, "image": image,
            "version": version, "seconds": seconds,
        });
        return output::json(&report);
    }
    output::line(&format!("mounted {object} in {:.0} ms", seconds * 1000.0))
}

pub(crate) async fn umount_from(
    settings: &Settings,
    arguments: &UmountFrom,
) -> Result<(), Failure> {
    let sandbox = &arguments.sandbox;
    let object = format!("{} from {sandbox}", arguments.path);
    let path = place(&object, &arguments.path)?;
    let fail = Failure::of("unmount", &object);
    let locked = launcher(settings)?.lock_mounts(sandbox).map_err(&fail)?;
    locked.umount(&path).await.map_err(fail)?;
    if settings.json {
        output::json(&serde_json::json!({ "sandbox": sandbox, "unmounted": path }))
    } else {
        output::line(&path)
    }
}

fn place(object: &str, path: &str) -> Result<String, Failure> {
    let usage = |cause: &str| Failure::new("mount", object, &cause).with_code(USAGE);
    mounts::normal(path).map_err(usage)
}
