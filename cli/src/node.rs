//! Reaching the daemon of a root, and starting it when none answers.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nacre_snapshotter::{Client, ClientError, LazyPolicy, MountMode, NodeInfo, OpenedImage};

use crate::failure::{BUSY, Failure};
use crate::settings::{CHECK_ONE_IN, Settings};

/// How long a daemon may take to start.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks for it.
const START_POLL: Duration = Duration::from_millis(20);

/// Daemons that one command starts, when those before were killed.
const START_ATTEMPTS_MAX: u32 = 5;

/// Daemons that may end while they open an image for a command.
const OPEN_ATTEMPTS_MAX: u32 = 5;

/// Returns a client of the daemon of this root, started if need be.
pub(crate) async fn client(settings: &Settings) -> Result<Client, Failure> {
    let client = Client::new(settings.socket());
    let info = match client.info().await {
        // A connection that breaks is a daemon that ends.
        Err(ClientError::NotRunning(_) | ClientError::Connection(_)) => {
            start(settings, &client).await?
        }
        info => info.map_err(Failure::of("reach", "the daemon"))?,
    };
    let ours = settings.store.to_string();
    if info.store == ours {
        return Ok(client);
    }
    let cause = format!("it serves {}, not {ours}", info.store);
    let hint = format!("stop it (kill {}) or use another --root", info.pid);
    Err(Failure::new("use", "this root's daemon", &cause)
        .with_code(BUSY)
        .with_hint(hint))
}

/// Makes an image readable, also when the daemon is replaced meanwhile. The outer failure is that
/// there is no daemon.
pub(crate) async fn open_image(
    settings: &Settings,
    name: &str,
    mode: Option<MountMode>,
) -> Result<Result<OpenedImage, ClientError>, Failure> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match client(settings).await?.open_image(name, mode).await {
            Err(ClientError::NotRunning(_) | ClientError::Connection(_))
                if attempts < OPEN_ATTEMPTS_MAX => {}
            opened => return Ok(opened),
        }
    }
}

/// Returns the command line of another process of this root: the program and its arguments.
pub(crate) fn command_line(settings: &Settings, verb: &str) -> std::io::Result<Vec<OsString>> {
    let mut line: Vec<OsString> = vec![std::env::current_exe()?.into(), verb.into()];
    line.extend(["--root".into(), settings.root.clone().into()]);
    line.extend(["--store".into(), settings.store.to_string().into()]);
    let region = &settings.region;
    if !region.members.is_empty() {
        let members: Vec<String> = region.members.iter().map(ToString::to_string).collect();
        line.extend(["--region-cache".into(), members.join(",").into()]);
    }
    let files = [
        ("--region-token", &region.token),
        ("--region-ca", &region.authority),
    ];
    for (flag, file) in files {
        if let Some(file) = file {
            line.extend([flag.into(), file.clone().into()]);
        }
    }
    if let Some(prefix) = &region.prefix {
        line.extend(["--region-prefix".into(), prefix.into()]);
    }
    if let Some(home) = &settings.home_store {
        line.extend(["--home-store".into(), home.to_string().into()]);
    }
    if !settings.home_except.is_empty() {
        line.extend([
            "--home-except".into(),
            settings.home_except.join(",").into(),
        ]);
    }
    let limits = [
        ("--store-timeout", settings.store_timeout),
        ("--cache-size", settings.cache.bytes_max),
        ("--cache-files", settings.cache.files_max),
    ];
    for (flag, limit) in limits {
        if let Some(limit) = limit {
            line.extend([flag.into(), limit.to_string().into()]);
        }
    }
    line.extend([
        "--containerd-address".into(),
        settings.containerd.clone().into(),
    ]);
    if settings.check_one_in != CHECK_ONE_IN {
        let check_one_in = settings.check_one_in.to_string();
        line.extend(["--check-one-in".into(), check_one_in.into()]);
    }
    if settings.lazy != LazyPolicy::default() {
        line.extend(["--lazy".into(), settings.lazy.to_string().into()]);
    }
    Ok(line)
}

/// Starts a daemon, and waits until one answers.
async fn start(settings: &Settings, client: &Client) -> Result<NodeInfo, Failure> {
    let fail = |error: &dyn std::fmt::Display| {
        Failure::new("start", "the daemon", error)
            .with_hint(format!("its log is {}", settings.log().display()))
    };
    let mut daemon = spawn(settings).map_err(|error| fail(&error))?;
    let mut attempts = 1;
    let deadline = settings.clock.elapsed() + START_DEADLINE;
    loop {
        match client.info().await {
            Ok(info) => return Ok(info),
            Err(ClientError::NotRunning(_) | ClientError::Connection(_)) => {}
            Err(error) => return Err(fail(&error)),
        }
        let ended = daemon.try_wait().map_err(|error| fail(&error))?;
        match ended {
            // It was killed, perhaps in place of the one before it.
            Some(status) if status.code().is_none() && attempts < START_ATTEMPTS_MAX => {
                attempts += 1;
                daemon = spawn(settings).map_err(|error| fail(&error))?;
            }
            // Another command may have started one at the same time; ours ends then, and its
            // answers. Or another one took over from ours at once, which is a good end.
            Some(status) if !status.success() && status.code() != Some(BUSY.into()) => {
                return Err(fail(&format!("it ended with {status}")));
            }
            _ => {}
        }
        if settings.clock.elapsed() > deadline {
            return Err(fail(&"it does not answer"));
        }
        settings.clock.sleep(START_POLL).await;
    }
}

/// Starts the process of a daemon, which outlives this one.
fn spawn(settings: &Settings) -> std::io::Result<Child> {
    std::fs::create_dir_all(&settings.root)?;
    let log = settings.log();
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let command_line = command_line(settings, "daemon")?;
    Command::new(&command_line[0])
        .args(&command_line[1..])
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log)
        // A group of its own: the terminal's interrupts are not for the daemon.
        .process_group(0)
        .spawn()
}
