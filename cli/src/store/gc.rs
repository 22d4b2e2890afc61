//! `nacre store gc`: deletes what no image or snapshot needs.

use std::sync::{Arc, Mutex, PoisonError};

use nacre_blobstore::{GcOptions, GcProgress, REPACK_SHARE_PERCENT};
use nacre_snapshotter::{is_expired, relink_chains};

use crate::args::Gc;
use crate::crash::crash_hook;
use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::progress::Counted;
use crate::settings::Settings;

pub(super) async fn gc(settings: &Settings, arguments: &Gc) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let url = settings.store.to_string();
    let options = GcOptions {
        hold: arguments.hold,
        dry_run: arguments.dry_run,
        repack_bytes: arguments.repack,
        repack_share_percent: REPACK_SHARE_PERCENT,
        holder: format!("gc, process {}", std::process::id()),
        expiry: Some(Arc::new(|_, record, now_ms| is_expired(record, now_ms))),
        progress: Some(progress(settings)),
        crash: crash_hook(),
    };
    if !arguments.dry_run
        && let Err(error) = relink_chains(&*store, &*settings.clock).await
    {
        // Collection reads the same names and says what is wrong with them; a chain whose image is gone
        // is not found, and put in order the next time.
        tracing::info!(%error, "put chains of layers in order");
    }
    let found = nacre_blobstore::gc(store, Arc::clone(&settings.clock), options).await;
    let found = found.map_err(Failure::of("collect garbage of store", &url))?;
    if settings.json {
        return output::json(&serde_json::json!({
            "dry_run": arguments.dry_run,
            "hold_seconds": arguments.hold.as_secs(),
            "refs": found.refs,
            "refs_expired": found.refs_expired,
            "packs": found.packs,
            "bytes": found.bytes,
            "bytes_garbage": found.bytes_garbage,
            "condemned": found.condemned,
            "held": found.held,
            "rescued": found.rescued,
            "deleted": found.deleted,
            "leases": found.leases,
            "sparse": found.sparse,
            "bytes_sparse": found.bytes_sparse,
            "repacked": found.repacked,
            "bytes_repacked": found.bytes_repacked,
            "corrupt": [],
        }));
    }
    let would = if arguments.dry_run { " (dry run)" } else { "" };
    output::line(&format!(
        "deleted {} objects; {} condemned and {} held of {} garbage; {} packs of {} in all{would}",
        found.deleted,
        found.condemned,
        found.held,
        human_bytes(found.bytes_garbage),
        found.packs,
        human_bytes(found.bytes),
    ))?;
    if found.sparse > 0 {
        output::note(&format!(
            "{} packs are mostly garbage, {} of it; {} were repacked{would}",
            found.sparse,
            human_bytes(found.bytes_sparse),
            found.repacked,
        ));
    }
    if found.leases > 0 {
        output::note(&format!(
            "{} writers that began before keep garbage from being deleted",
            found.leases
        ));
    }
    Ok(())
}

/// Shows how many objects are deleted.
fn progress(settings: &Settings) -> Arc<dyn Fn(GcProgress) + Send + Sync> {
    let kind = settings.progress;
    let shown: Mutex<Option<(Counted, u64)>> = Mutex::default();
    Arc::new(move |progress| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            GcProgress::Deleting(objects) if objects > 0 => {
                *shown = Some((Counted::new(kind, "deleted", objects), 0));
            }
            GcProgress::Deleted(now) => {
                if let Some((bar, done)) = &mut *shown {
                    while *done < now {
                        bar.advance();
                        *done += 1;
                    }
                }
            }
            GcProgress::Deleting(_) | GcProgress::Marked(_) | GcProgress::Listed(_) => {}
        }
    })
}
