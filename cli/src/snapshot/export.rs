//! `nacre snapshot export`: a snapshot as an OCI image.

use std::sync::Arc;

use nacre_snapshotter::layer::Compression;
use nacre_snapshotter::oci::Source;
use nacre_snapshotter::{Export, ExportError, ExportOptions, NodeError, Rung};

use super::pending;
use crate::args::{LayerCompression, SnapshotExport};
use crate::failure::{Class, Classed, FAILED, Failure, NOT_FOUND, USAGE};
use crate::image::add::registry_options;
use crate::output::{self, human_bytes};
use crate::settings::Settings;
use crate::trace::reader;

pub(super) async fn export(settings: &Settings, arguments: &SnapshotExport) -> Result<(), Failure> {
    let began = settings.clock.elapsed();
    let name = &arguments.name;
    let parse = |text: &String| {
        let source = text.parse::<Source>();
        source.map_err(|error| Failure::new("export", name, &error).with_code(USAGE))
    };
    let options = ExportOptions {
        name: name.clone(),
        to: parse(&arguments.destination)?,
        from: arguments.from.as_ref().map(parse).transpose()?,
        flat: arguments.flat,
        compression: match arguments.compression {
            LayerCompression::Gzip => Compression::Gzip,
            LayerCompression::Zstd => Compression::Zstd,
        },
    };
    let export = exporter(settings, name).await?;
    let exported = export.export(&options).await;
    let exported = exported.map_err(Failure::of("export", name))?;
    let seconds = settings.clock.elapsed().saturating_sub(began).as_secs_f64();
    if settings.json {
        return output::json(&serde_json::json!({
            "name": name,
            "digest": exported.digest.as_str(),
            "layers": exported.layers,
            "layer": exported.layer.as_ref().map(|layer| layer.as_str()),
            "bytes_layer": exported.bytes_layer,
            "bytes_copied": exported.bytes_copied,
            "skipped": exported.skipped,
            "seconds": seconds,
        }));
    }
    for path in &exported.skipped {
        output::note(&format!("left out {path}: a layer has no sockets"));
    }
    let new = match &exported.layer {
        Some(_) => format!("a new one of {}", human_bytes(exported.bytes_layer)),
        None => "none of them new".to_owned(),
    };
    output::note(&format!(
        "{} layers, {new}; {} copied in {seconds:.1} s",
        exported.layers,
        human_bytes(exported.bytes_copied),
    ));
    output::line(exported.digest.as_str())
}

/// Opens what writes the image or snapshot `name` out, once the snapshot is durable.
pub(crate) async fn exporter(settings: &Settings, name: &str) -> Result<Export, Failure> {
    pending::wait(settings, name, Rung::Durable).await?;
    let store = settings.open_store()?;
    Ok(Export {
        reader: reader(settings, Arc::clone(&store)).await?,
        store,
        scratch: settings.root.join(format!("export-{:x}", settings.seed())),
        registry: registry_options(&settings.clock)?,
    })
}

impl Classed for ExportError {
    fn class(&self) -> Class {
        match self {
            Self::Named(NodeError::Image(error)) | Self::Image(error) => error.class(),
            Self::Named(NodeError::Snapshot(error)) | Self::Snapshot(error) => error.class(),
            Self::NoBase(_) => (NOT_FOUND, Some("--flat exports one layer with everything")),
            Self::NoLayers { .. } => (
                NOT_FOUND,
                Some(
                    "name what has it by --from SOURCE, or use --flat for one layer with everything",
                ),
            ),
            Self::Destination(_) => (USAGE, None),
            Self::Read(error) => error.class(),
            Self::Catalog(error) => error.class(),
            Self::Oci(error) => error.class(),
            _ => (FAILED, None),
        }
    }
}
