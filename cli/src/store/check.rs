//! `nacre store check`: whether the store keeps the promises that nacre relies on.

use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn check(settings: &Settings) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let url = settings.store.to_string();
    let checked = nacre_blobstore::check_store(&*store, settings.seed()).await;
    checked.map_err(Failure::of("use store", &url))?;
    if settings.json {
        output::json(&serde_json::json!({ "store": url, "conditional_writes": true }))
    } else {
        output::line(&format!("{url}: conditional writes are exact"))
    }
}
