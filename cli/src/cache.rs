//! `nacre cache`: what this node holds and where reads were served from.

use crate::args::CacheVerb;
use crate::failure::Failure;
use crate::node;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

pub(crate) async fn cache(settings: &Settings, verb: &CacheVerb) -> Result<(), Failure> {
    match verb {
        CacheVerb::Stats => stats(settings).await,
    }
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
    output::line(&format!(
        "waits    p50 {:.1} ms, p99 {:.1} ms; {} failed reads, {} corrupt frames",
        stats.waits_ms_p50, stats.waits_ms_p99, stats.failed_reads, stats.corrupt
    ))
}
