//! `nacre trace record`: a start whose every read the daemon sees.

use crate::args::{MountMode, NetworkKind, Process, Run, RuntimeName, TraceRecord};
use crate::failure::{Failure, SUCCESS};
use crate::node;
use crate::output;
use crate::sandbox;
use crate::settings::Settings;

/// Runs the command on the portable view, where what is on the node is seen as well, and returns
/// its exit code.
pub(super) async fn record(settings: &Settings, arguments: TraceRecord) -> Result<u8, Failure> {
    let name = arguments.image.clone();
    let store = settings.open_store()?;
    let (_, tree) = super::find(&*store, "record", &name).await?;
    let client = node::client(settings).await?;
    let quiet = Settings {
        json: false,
        ..settings.clone()
    };
    let code = sandbox::run::run(&quiet, run_of(arguments)).await?;
    let finished = client
        .finish_trace(&tree.to_string())
        .await
        .map_err(Failure::of("record", &name))?;
    if settings.json {
        output::json(&serde_json::json!({
            "name": name, "tree": tree.to_string(), "news": finished.news, "exit_code": code,
        }))?;
    } else if code == SUCCESS {
        output::note(match finished.news {
            true => "recorded what the start read",
            false => "the start read nothing that its trace does not have",
        });
    }
    Ok(code)
}

fn run_of(arguments: TraceRecord) -> Run {
    Run {
        name: None,
        detach: false,
        rm: true,
        process: Process {
            interactive: false,
            tty: false,
            env: Vec::new(),
            workdir: None,
            user: None,
        },
        mount: Vec::new(),
        runtime: RuntimeName::Runc,
        network: NetworkKind::None,
        mode: MountMode::Fuse,
        memory: None,
        cpus: None,
        image: arguments.image,
        command: arguments.command,
    }
}
