//! What a node in kernel mode does for its mounts from time to time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nacre_blobstore::Clock;
use nacre_fs::{LookAgain, MetadataMounts, NodeCache};
use tokio::runtime::Handle;

use super::node::GATE_FOLDER;

/// Between two looks for metadata mounts that nothing uses any more.
const SWEEP_PERIOD: Duration = Duration::from_secs(30);

/// Takes away metadata mounts that nothing uses, and overlays off the gate below `mount_point`, for as
/// long as the runtime lives.
pub(super) fn keep_up(
    runtime: &Handle,
    mounts: &Arc<MetadataMounts>,
    cache: &Arc<NodeCache>,
    mount_point: &Path,
    clock: &Arc<dyn Clock>,
) {
    drop(runtime.spawn(sweep(Arc::clone(mounts), Arc::clone(clock))));
    let gate = mount_point.join(GATE_FOLDER);
    if let Some(looking) = LookAgain::new(cache, &gate, Arc::clone(clock)) {
        drop(runtime.spawn(look_again(looking, Arc::clone(clock))));
    }
}

async fn sweep(mounts: Arc<MetadataMounts>, clock: Arc<dyn Clock>) {
    loop {
        clock.sleep(SWEEP_PERIOD).await;
        let mounts = Arc::clone(&mounts);
        let swept = move || mounts.sweep(MetadataMounts::UNUSED_GRACE);
        match tokio::task::spawn_blocking(swept).await {
            Ok(Err(error)) => tracing::warn!(%error, "sweep metadata mounts"),
            Ok(Ok(())) => {}
            Err(_) => return,
        }
    }
}

async fn look_again(mut looking: LookAgain, clock: Arc<dyn Clock>) {
    loop {
        clock.sleep(LookAgain::PERIOD).await;
        let run = move || {
            let ran = looking.run();
            (looking, ran)
        };
        let Ok((looked, ran)) = tokio::task::spawn_blocking(run).await else {
            return;
        };
        if let Err(error) = ran {
            tracing::warn!(%error, "take overlays off the gate");
        }
        looking = looked;
    }
}
