//! `nacre image register`: an image or a snapshot as an image of containerd.

use nacre_blobstore::RecordId;
use nacre_snapshotter::layer::Compression;
use nacre_snapshotter::oci::Source;
use nacre_snapshotter::{ExportOptions, RegisterError, Registration, register_image};

use super::add::host_name;
use crate::args::ImageRegister;
use crate::failure::{Class, Classed, FAILED, Failure, USAGE};
use crate::output;
use crate::settings::Settings;
use crate::snapshot::export::exporter;

pub(super) async fn register(
    settings: &Settings,
    arguments: &ImageRegister,
) -> Result<(), Failure> {
    let name = &arguments.name;
    let as_name = match &arguments.as_name {
        Some(as_name) => as_name.clone(),
        None if name.parse::<RecordId>().is_ok() => {
            let cause = "an id is no name for an image: give one by --as";
            return Err(Failure::new("register", name, &cause).with_code(USAGE));
        }
        None => with_tag(name),
    };
    let export = exporter(settings, name).await?;
    let options = ExportOptions {
        name: name.clone(),
        // Nothing is put there.
        to: Source::Directory(settings.root.clone()),
        from: None,
        flat: false,
        compression: Compression::Gzip,
    };
    let holder = format!("process {} of {}", std::process::id(), host_name());
    let image = export
        .as_image(&options, &as_name, &settings.clock, &holder)
        .await;
    let image = image.map_err(Failure::of("register", name))?;
    // Its index is another process's again.
    drop(export);
    let registration = Registration {
        socket: settings.containerd.clone(),
        namespace: arguments.namespace.clone(),
        snapshotter: arguments.snapshotter.clone(),
        name: as_name,
    };
    let registered = register_image(&image.payload, &registration, &*settings.clock).await;
    registered.map_err(Failure::of("register", name))?;
    if settings.json {
        return output::json(&serde_json::json!({
            "name": registration.name,
            "image": image.id.to_string(),
            "digest": image.payload.manifest_digest.as_str(),
            "layers": image.payload.layers.len(),
            "namespace": registration.namespace,
        }));
    }
    output::line(&registration.name)
}

/// Adds the tag that a name without one stands for.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = if last.contains([':', '@']) {
        ""
    } else {
        ":latest"
    };
    format!("{name}{tag}")
}

impl Classed for RegisterError {
    fn class(&self) -> Class {
        let hint = self
            .is_unavailable()
            .then_some("--containerd-address names its socket");
        (FAILED, hint)
    }
}
