//! `nacre image add`: from a registry, archive, layout or directory into the store.

use std::path::PathBuf;
use std::sync::Arc;

use nacre_blobstore::{
    BlobStore, CHUNK_BYTES_AVERAGE, ChunkIndex, Clock, FRAME_BYTES_TARGET, WriterOptions,
    check_store,
};
use nacre_snapshotter::layer::LayerLimits;
use nacre_snapshotter::oci::{self, CredentialStore, Platform, RegistryOptions, Source};
use nacre_snapshotter::{AddSource, Ingest};
use serde::Serialize;

use crate::args::ImageAdd;
use crate::crash::crash_hook;
use crate::failure::{Failure, USAGE};
use crate::output::{self, human_bytes};
use crate::progress;
use crate::settings::Settings;

#[derive(Debug, Serialize)]
struct Added {
    name: String,
    image: String,
    tree: String,
    layers: usize,
    files: u64,
    bytes_compressed: u64,
    bytes_plain: u64,
    chunks_new: u64,
    chunks_known: u64,
    bytes_new_plain: u64,
    bytes_stored: u64,
    seconds: f64,
    unchanged: bool,
}

pub(super) async fn add(settings: &Settings, arguments: ImageAdd) -> Result<(), Failure> {
    let began = settings.clock.elapsed();
    let usage = |error: &dyn std::fmt::Display| {
        Failure::new("add image", &arguments.source, error).with_code(USAGE)
    };
    let source: Source = arguments.source.parse().map_err(|error| usage(&error))?;
    let name = arguments
        .name
        .clone()
        .unwrap_or_else(|| source.default_name());
    let platform = match &arguments.platform {
        Some(platform) => platform.parse().map_err(|error| usage(&error))?,
        None => Platform::host(),
    };
    let store = settings.open_store_in_region()?;
    if !settings.index_path("ingest").exists() {
        // Once a root and store: no ref may be written where races have two winners.
        let checked = check_store(&*store, settings.seed()).await;
        checked.map_err(Failure::of("use store", &settings.store.to_string()))?;
    }
    let index = settings.open_index().await?;
    let ingest = ingest(settings, &arguments, store, index);
    let from = match &source {
        Source::Directory(path) => AddSource::Directory(path.clone()),
        _ => {
            let opened = oci::open(&source, &registry_options(&settings.clock)?).await;
            AddSource::Image(opened.map_err(Failure::of("add image", &arguments.source))?)
        }
    };
    let progress = progress::of_kind(settings.progress);
    let added = ingest.add(&name, from, &platform, progress).await;
    let added = added.map_err(Failure::of("add image", &arguments.source))?;
    let report = Added {
        name: added.name,
        image: added.id.to_string(),
        tree: added.tree.to_string(),
        layers: added.payload.layers.len(),
        files: added.payload.files,
        bytes_compressed: added.payload.bytes_compressed,
        bytes_plain: added.payload.bytes_plain,
        chunks_new: added.stats.chunks_new,
        chunks_known: added.stats.chunks_known,
        bytes_new_plain: added.stats.bytes_new_plain,
        bytes_stored: added.stats.bytes_stored,
        seconds: settings.clock.elapsed().saturating_sub(began).as_secs_f64(),
        unchanged: added.unchanged,
    };
    if settings.json {
        return output::json(&report);
    }
    output::line(&format!(
        "{}: {} files, {} plain; {} new, stored as {} in {:.1} s",
        report.name,
        report.files,
        human_bytes(report.bytes_plain),
        human_bytes(report.bytes_new_plain),
        human_bytes(report.bytes_stored),
        report.seconds
    ))
}

/// Sets an ingest up for this machine.
fn ingest(
    settings: &Settings,
    arguments: &ImageAdd,
    store: Arc<dyn BlobStore>,
    index: Arc<ChunkIndex>,
) -> Ingest {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Ingest {
        store,
        index,
        clock: Arc::clone(&settings.clock),
        limits: LayerLimits::default(),
        layers_at_once: cores,
        chunk_bytes: arguments.chunk_bytes.unwrap_or(CHUNK_BYTES_AVERAGE),
        writer: WriterOptions {
            threads: cores,
            frame_bytes: arguments.frame_bytes.unwrap_or(FRAME_BYTES_TARGET),
            crash: crash_hook(),
            ..WriterOptions::default()
        },
        holder: format!("process {} of {}", std::process::id(), host_name()),
    }
}

/// Docker's credentials, where docker looks for them.
pub(crate) fn registry_options(clock: &Arc<dyn Clock>) -> Result<RegistryOptions, Failure> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let file = directory
        .or_else(home)
        .map(|directory| directory.join("config.json"));
    let credentials = match file.filter(|file| file.exists()) {
        Some(file) => {
            let object = file.display().to_string();
            CredentialStore::load(&file)
                .map_err(|error| Failure::new("read credentials", &object, &error))?
        }
        None => CredentialStore::anonymous(),
    };
    let proxy = std::env::var_os("HTTPS_PROXY").and_then(|proxy| proxy.into_string().ok());
    let clock = Arc::clone(clock);
    Ok(RegistryOptions {
        credentials,
        proxy,
        clock,
        ..RegistryOptions::default()
    })
}

pub(super) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
