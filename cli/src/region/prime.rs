//! `nacre region prime`: the region's cache has what starts of an image read, before they do.

use crate::args::RegionPrime;
use crate::failure::{Failure, USAGE};
use crate::node;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

const VERB: &str = "prime the region with";

pub(super) async fn prime(settings: &Settings, arguments: &RegionPrime) -> Result<(), Failure> {
    let name = &arguments.name;
    if settings.region.members.is_empty() {
        return Err(Failure::new(VERB, name, &"no region cache is given")
            .with_code(USAGE)
            .with_hint("--region-cache names its members"));
    }
    let client = node::client(settings).await?;
    let primed = client.prime_region(name, arguments.all).await;
    let primed = primed.map_err(Failure::of(VERB, name))?;
    if settings.json {
        output::json(&primed)?;
    } else {
        let untraced = if primed.traced || arguments.all {
            ""
        } else {
            "; no start was recorded, so none of its files"
        };
        output::line(&format!(
            "{name}: {} in {} requests, {:.1} s{untraced}",
            human_bytes(primed.bytes),
            primed.requests,
            primed.seconds
        ))?;
    }
    if primed.failed == 0 {
        return Ok(());
    }
    let cause = format!("{} requests were not answered", primed.failed);
    Err(Failure::new(VERB, name, &cause)
        .with_hint("`nacre cache stats` tells which members answer"))
}
