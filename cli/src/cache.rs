//! `nacre cache`: what this node holds and where reads were served from.

use nacre_snapshotter::{CacheCheck, CachePrune};
use serde::Serialize;

use crate::args::{CacheVerb, Prune};
use crate::failure::{CORRUPT, Failure};
use crate::node;
use crate::output::{self, human_bytes};
use crate::progress::Counted;
use crate::settings::Settings;

/// Parts in which the cache is checked: the first bytes of ids.
const SHARDS: u64 = 256;

pub(crate) async fn cache(settings: &Settings, verb: &CacheVerb) -> Result<(), Failure> {
    match verb {
        CacheVerb::Stats => stats(settings).await,
        CacheVerb::Prune(prune) => prune_to(settings, prune).await,
        CacheVerb::Verify => verify(settings).await,
    }
}

/// What `prune` prints.
#[derive(Debug, Serialize)]
struct Pruned {
    contents: u64,
    bytes: u64,
}

async fn prune_to(settings: &Settings, prune: &Prune) -> Result<(), Failure> {
    let client = node::client(settings).await?;
    let to_bytes = if prune.all { 0 } else { prune.to.unwrap_or(0) };
    let mut pruned = Pruned {
        contents: 0,
        bytes: 0,
    };
    loop {
        let CachePrune {
            contents,
            bytes,
            done,
        } = client
            .prune_cache(to_bytes)
            .await
            .map_err(Failure::of("prune", "the cache"))?;
        pruned.contents += contents;
        pruned.bytes += bytes;
        if done {
            break;
        }
    }
    if settings.json {
        return output::json(&pruned);
    }
    output::line(&format!(
        "evicted {} contents, {}",
        pruned.contents,
        human_bytes(pruned.bytes)
    ))
}

async fn verify(settings: &Settings) -> Result<(), Failure> {
    let client = node::client(settings).await?;
    let progress = Counted::new(settings.progress, "checked", SHARDS);
    let mut all = CacheCheck::default();
    for shard in 0..=u8::MAX {
        let check = client.verify_cache(shard).await;
        let check = check.map_err(Failure::of("check", "the cache"))?;
        all.checked += check.checked;
        all.corrupt.extend(check.corrupt);
        progress.advance();
    }
    drop(progress);
    if settings.json {
        output::json(&all)?;
    } else {
        for content in &all.corrupt {
            output::line(&format!("corrupt {content}"))?;
        }
        output::line(&format!(
            "checked {} contents, dropped {}",
            all.checked,
            all.corrupt.len()
        ))?;
    }
    if all.corrupt.is_empty() {
        return Ok(());
    }
    let cause = format!(
        "{} contents were damaged, and are dropped",
        all.corrupt.len()
    );
    Err(Failure::new("vouch for", "the cache", &cause)
        .with_code(CORRUPT)
        .with_hint("they are fetched again when they are needed; look after the disk".to_owned()))
}

async fn stats(settings: &Settings) -> Result<(), Failure> {
    let client = node::client(settings).await?;
    let stats = client
        .cache_stats()
        .await
        .map_err(Failure::of("read", "cache statistics"))?;
    if settings.json {
        return output::json(&stats);
    }
    let counting = if stats.counted {
        ""
    } else {
        ", still counting"
    };
    output::line(&format!(
        "disk     {:>8} contents {:>9} of {}{counting}; evicted {}",
        stats.contents,
        human_bytes(stats.bytes),
        human_bytes(stats.quota_in_force),
        human_bytes(stats.evicted_bytes)
    ))?;
    for (tier, count) in [
        ("node", stats.node),
        ("region", stats.region),
        ("origin", stats.origin),
    ] {
        output::line(&format!(
            "{tier:<8} {:>8} reads {:>12}",
            count.reads,
            human_bytes(count.bytes)
        ))?;
    }
    if let Some(region) = &stats.region_cache {
        output::line(&format!(
            "members  {} of {} answer: {} from memory, {} from disk, {} from the origin; \
             {} passed by, {} hedged, {} busy",
            region.members.saturating_sub(region.members_down),
            region.members,
            region.memory,
            region.disk,
            region.origin,
            region.passed_by,
            region.hedged,
            region.busy
        ))?;
    }
    output::line(&format!(
        "waits    p50 {:.1} ms, p99 {:.1} ms; {} failed reads, {} corrupt frames",
        stats.waits_ms_p50, stats.waits_ms_p99, stats.failed_reads, stats.corrupt
    ))
}
