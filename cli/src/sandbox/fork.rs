//! `nacre fork`: several sandboxes from one state.

use futures::{StreamExt, stream};
use nacre_launcher::{LaunchError, Launcher};
use nacre_snapshotter::OpenedImage;
use serde::Serialize;

use super::launcher;
use super::run::spec;
use crate::args::{Fork, Run};
use crate::failure::{FAILED, Failure, SUCCESS, USAGE};
use crate::node;
use crate::output;
use crate::settings::Settings;
use crate::snapshot::create;

/// Most sandboxes of one command.
const COUNT_MAX: u32 = 10_000;
/// Sandboxes that are started at once.
const STARTS_AT_ONCE: usize = 4;

/// What became of one fork.
#[derive(Debug, Serialize)]
struct Forked {
    sandbox: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_to_start: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn fork(settings: &Settings, arguments: Fork) -> Result<u8, Failure> {
    let Fork { count, mut run } = arguments;
    let source = run.image.clone();
    let usage = |cause: &str| Failure::new("fork", &source, &cause).with_code(USAGE);
    if count == 0 || count > COUNT_MAX {
        return Err(usage(&format!("the count is not from 1 to {COUNT_MAX}")));
    }
    if run.rm || run.process.tty || run.process.interactive {
        return Err(usage("forks run by themselves: no --rm, -i or -t"));
    }
    let launcher = launcher(settings)?;
    let began = settings.clock.elapsed();
    let mut captured = None;
    match launcher.inspect(&source) {
        Ok(_) => {
            let request = create::request_of(&launcher, &source)?;
            let created = create::send(settings, &request).await?;
            run.image.clone_from(&created.snapshot);
            captured = Some(created);
        }
        Err(LaunchError::NotFound(_) | LaunchError::Invalid(_)) => {}
        Err(error) => return Err(Failure::of("fork", &source)(error)),
    }
    // Opened once: what all of them share is there before the first starts.
    let opened = node::open_image(settings, &run.image, run.mode.wanted())
        .await?
        .map_err(Failure::of("fork", &source))?;
    let prepared = settings.clock.elapsed().saturating_sub(began);
    let forks: Vec<Forked> = stream::iter(1..=count)
        .map(|number| start(&launcher, &run, &opened, number))
        .buffered(STARTS_AT_ONCE)
        .collect()
        .await;
    let failed = forks.iter().filter(|fork| fork.error.is_some()).count();
    if settings.json {
        output::json(&serde_json::json!({
            "snapshot": captured.as_ref().map(|created| &created.snapshot),
            "frozen_ms": captured.as_ref().map(|created| created.frozen_ms),
            "prepared_ms": prepared.as_secs_f64() * 1000.0,
            "sandboxes": forks,
        }))?;
    } else {
        for fork in &forks {
            match (&fork.sandbox, &fork.error) {
                (_, Some(error)) => output::note(error),
                (Some(sandbox), None) => output::line(sandbox)?,
                (None, None) => {}
            }
        }
    }
    Ok(if failed == 0 { SUCCESS } else { FAILED })
}

async fn start(launcher: &Launcher, run: &Run, opened: &OpenedImage, number: u32) -> Forked {
    let mut run = run.clone();
    run.name = run.name.map(|name| format!("{name}-{number}"));
    let name = run.name.clone();
    let started = async {
        let spec = spec(run, opened.clone())?;
        let fail = Failure::of("start", name.as_deref().unwrap_or("a fork"));
        launcher.start(spec).await.map_err(fail)
    };
    match started.await {
        Ok(started) => Forked {
            sandbox: Some(started.name),
            seconds_to_start: Some(started.time_to_start.as_secs_f64()),
            error: None,
        },
        Err(failure) => Forked {
            sandbox: name,
            seconds_to_start: None,
            error: Some(failure.text()),
        },
    }
}
