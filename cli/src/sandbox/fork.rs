//! `nacre fork`: several sandboxes from one state.

use futures::{StreamExt, stream};
use nacre_launcher::{LaunchError, Launcher, Prepared};
use nacre_snapshotter::OpenedImage;
use serde::Serialize;

use super::launcher;
use super::mounts::{self, Opened};
use super::run::spec;
use crate::args::{Fork, Run};
use crate::failure::{FAILED, Failure, SUCCESS, USAGE};
use crate::node;
use crate::output;
use crate::settings::Settings;
use crate::snapshot::create;

/// Most sandboxes of one command.
const COUNT_MAX: u32 = 10_000;
/// Sandboxes that are made before the first of them is started. Each is an open file.
const BATCH: usize = 128;
/// Sandboxes that are made, and then started, at once: each waits for the disk and for the kernel more
/// than it computes.
const AT_ONCE: usize = 16;

/// What became of one fork. Times are from the start of the command.
#[derive(Debug, Serialize)]
struct Forked {
    sandbox: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_to_root: Option<f64>,
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
    let asked = mounts::parse(&run.mount)?;
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
    let mounts = mounts::open(settings, asked, run.mode).await?;
    let prepared = settings.clock.elapsed().saturating_sub(began);
    let seconds = || {
        let elapsed = settings.clock.elapsed().saturating_sub(began);
        elapsed.as_secs_f64()
    };
    let numbers: Vec<u32> = (1..=count).collect();
    let mut forks: Vec<Forked> = Vec::new();
    for batch in numbers.chunks(BATCH) {
        // All root file systems of a batch first: a runtime takes many times as long.
        let roots: Vec<_> = stream::iter(batch)
            .map(|number| prepare(&launcher, &run, (&opened, &mounts), *number, &seconds))
            .buffered(AT_ONCE)
            .collect()
            .await;
        let started = stream::iter(roots)
            .map(|root| start(&launcher, root, &seconds))
            .buffered(AT_ONCE);
        forks.extend(started.collect::<Vec<_>>().await);
    }
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

/// Makes the sandbox of one fork; it is to be started with what is returned.
async fn prepare(
    launcher: &Launcher,
    run: &Run,
    (opened, mounts): (&OpenedImage, &Opened),
    number: u32,
    seconds: &impl Fn() -> f64,
) -> Result<(Prepared, Forked), Forked> {
    let mut run = run.clone();
    run.name = run.name.map(|name| format!("{name}-{number}"));
    let mut forked = Forked {
        sandbox: run.name.clone(),
        seconds_to_root: None,
        seconds_to_start: None,
        error: None,
    };
    let prepared = async {
        let spec = spec(run, opened.clone(), mounts.clone())?;
        let prepared = launcher.prepare(spec).await;
        prepared.map_err(|error| forked.failure(error))
    };
    match prepared.await {
        Ok(prepared) => {
            forked.sandbox = Some(prepared.name().to_owned());
            forked.seconds_to_root = Some(seconds());
            Ok((prepared, forked))
        }
        Err(failure) => {
            forked.error = Some(failure.text());
            Err(forked)
        }
    }
}

async fn start(
    launcher: &Launcher,
    root: Result<(Prepared, Forked), Forked>,
    seconds: &impl Fn() -> f64,
) -> Forked {
    let (prepared, mut forked) = match root {
        Ok(root) => root,
        Err(forked) => return forked,
    };
    match launcher.launch(prepared).await {
        Ok(_started) => forked.seconds_to_start = Some(seconds()),
        Err(error) => forked.error = Some(forked.failure(error).text()),
    }
    forked
}

impl Forked {
    fn failure(&self, error: LaunchError) -> Failure {
        Failure::of("start", self.sandbox.as_deref().unwrap_or("a fork"))(error)
    }
}
