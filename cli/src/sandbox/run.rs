//! `nacre run`: a command in a new sandbox.

use nacre_launcher::{
    ImageDefaults, LaunchError, Network, ProcessOverrides, RuntimeKind, SandboxSpec, Started,
};
use nacre_snapshotter::OpenedImage;
use nacre_snapshotter::oci::ImageConfig;

use super::mounts::{self, Opened};
use super::{environment, launcher, own_streams};
use crate::args::{NetworkKind, Run, RuntimeName};
use crate::failure::{Failure, SUCCESS};
use crate::node;
use crate::output;
use crate::settings::Settings;

/// What docker exits with when it could not run a command for its own reasons.
const NOT_RUN: u8 = 125;

pub(crate) async fn run(settings: &Settings, arguments: Run) -> Result<u8, Failure> {
    let began = settings.clock.elapsed();
    let image = arguments.image.clone();
    let detach = arguments.detach;
    let asked = mounts::parse(&arguments.mount)?;
    let opened = node::open_image(settings, &image, arguments.mode.wanted())
        .await
        .map_err(|failure| failure.with_code(NOT_RUN))?
        .map_err(Failure::of("run", &image))?;
    let mounts = mounts::open(settings, asked, arguments.mode).await?;
    let spec = spec(arguments, opened, mounts)?;
    let launcher = launcher(settings)?;
    let before = settings.clock.elapsed().saturating_sub(began);
    let fail = |error: LaunchError| {
        let code = error.exit_code();
        Failure::of("run", &image)(error).with_code(code)
    };
    let report = |started: &Started| {
        output::json(&serde_json::json!({
            "sandbox": started.name,
            "seconds_to_start": (before + started.time_to_start).as_secs_f64(),
        }))
    };
    if detach {
        let started = launcher.start(spec).await.map_err(fail)?;
        if settings.json {
            report(&started)?;
        } else {
            output::line(&started.name)?;
        }
        return Ok(SUCCESS);
    }
    let outcome = launcher.run(spec, own_streams()?).await.map_err(fail)?;
    if settings.json {
        report(&outcome.started)?;
    }
    Ok(outcome.exit_code)
}

pub(super) fn spec(
    arguments: Run,
    opened: OpenedImage,
    mounts: Opened,
) -> Result<SandboxSpec, Failure> {
    let config = ImageConfig::parse(opened.config.as_bytes())
        .map_err(Failure::of("read config of", &arguments.image))?;
    let process = arguments.process;
    Ok(SandboxSpec {
        name: arguments.name,
        image: arguments.image,
        started_from: opened.image,
        lower: opened.lower,
        defaults: ImageDefaults {
            entrypoint: config.entrypoint,
            command: config.cmd,
            env: config.env,
            cwd: config.working_dir,
            user: config.user,
            stop_signal: config.stop_signal,
        },
        overrides: ProcessOverrides {
            command: arguments.command,
            env: environment(process.env),
            cwd: process.workdir,
            user: process.user,
        },
        terminal: process.tty,
        interactive: process.interactive,
        mounts: mounts.host,
        trees: mounts.trees,
        network: match arguments.network {
            NetworkKind::None => Network::None,
            NetworkKind::Host => Network::Host,
        },
        memory_bytes: arguments.memory,
        cpus: arguments.cpus,
        hostname: None,
        runtime: match arguments.runtime {
            RuntimeName::Runc => RuntimeKind::Runc,
            RuntimeName::Crun => RuntimeKind::Crun,
            RuntimeName::Runsc => RuntimeKind::Runsc,
        },
        remove_on_exit: arguments.rm,
    })
}
