//! Making a sandbox: from what the caller wants to a mounted bundle.

use std::io;
use std::path::Path;

use nacre_fs::mount::RootedDir;
use rustix::process::{Resource, getrlimit};

use crate::bundle::{self, BundleSpec, Process, mounts::ETC_FILES};
use crate::error::LaunchError;
use crate::sandbox::mounts::{Mounts, binds};
use crate::sandbox::{Record, Sandbox, check_name};
use crate::spec::{Network, SandboxSpec};
use crate::user;
use crate::wait::parse_signal;

/// Tries of a random name that is taken.
const NAME_TRIES_MAX: usize = 8;

/// Makes a sandbox, locked, with its root file system mounted. On errors nothing is left.
pub(super) fn create(
    sandboxes: &Path,
    spec: &SandboxSpec,
    created_ms: u64,
) -> Result<Sandbox, LaunchError> {
    if let Some(name) = &spec.name {
        check_name(name)?;
        return create_named(sandboxes, name, spec, created_ms);
    }
    for _ in 1..NAME_TRIES_MAX {
        match create_named(sandboxes, &random_name()?, spec, created_ms) {
            Err(LaunchError::Busy(..)) => {}
            outcome => return outcome,
        }
    }
    create_named(sandboxes, &random_name()?, spec, created_ms)
}

fn random_name() -> Result<String, LaunchError> {
    Ok(format!("sb-{}", &random_id()?[..8]))
}

/// Returns 16 random hexadecimal digits.
pub(super) fn random_id() -> Result<String, LaunchError> {
    let random = getrandom::u64().map_err(|e| io::Error::other(e.to_string()));
    random
        .map(|id| format!("{id:016x}"))
        .map_err(LaunchError::io("read", "random numbers"))
}

fn create_named(
    sandboxes: &Path,
    name: &str,
    spec: &SandboxSpec,
    created_ms: u64,
) -> Result<Sandbox, LaunchError> {
    let hostname = hostname(name, spec)?;
    let process = process(spec, &hostname)?;
    let dir = sandboxes.join(name);
    let container_id = random_id()?;
    let mounts = Mounts::of(&spec.trees)?;
    let mut extra_mounts = spec.mounts.clone();
    extra_mounts.extend(binds(&dir, &mounts));
    let config = bundle::config(&BundleSpec {
        container_id: &container_id,
        rootfs: &dir.join("rootfs"),
        process: &process,
        hostname: &hostname,
        network: spec.network,
        memory_bytes: spec.memory_bytes,
        cpus: spec.cpus,
        etc: &dir.join("etc"),
        extra_mounts: &extra_mounts,
    })?;
    let record = Record {
        version: Record::VERSION,
        container_id,
        image: spec.image.clone(),
        started_from: spec.started_from.clone(),
        created_ms,
        runtime: spec.runtime,
        network: spec.network,
        stop_signal: parse_signal(&spec.defaults.stop_signal)?,
        lower: spec.lower.clone(),
        process,
    };
    let etc = etc_files(spec.network, &hostname)?;
    let sandbox = Sandbox::create(sandboxes, name, record, &config, &etc, &mounts)?;
    match prepare_rootfs(&sandbox, spec.remove_on_exit) {
        Ok(()) => Ok(sandbox),
        Err(error) => {
            sandbox.remove_files()?;
            Err(error)
        }
    }
}

fn prepare_rootfs(sandbox: &Sandbox, is_ephemeral: bool) -> Result<(), LaunchError> {
    sandbox.mount_rootfs(is_ephemeral)?;
    sandbox.mount_trees()?;
    let cwd = &sandbox.record.process.cwd;
    RootedDir::open(&sandbox.rootfs())
        .and_then(|root| root.create_dir_all(Path::new(cwd)))
        .map_err(LaunchError::io("create working directory", cwd))
}

/// Users come from the image, which is all there is before the sandbox runs.
fn process(spec: &SandboxSpec, hostname: &str) -> Result<Process, LaunchError> {
    let SandboxSpec {
        defaults,
        overrides,
        terminal,
        ..
    } = spec;
    let root = RootedDir::over(&spec.lower)
        .map_err(LaunchError::io("open root file system", spec.lower.top()))?;
    let user = user::resolve(&root, overrides.user.as_ref().unwrap_or(&defaults.user))?;
    let env = bundle::build_environment(
        hostname,
        &user.home,
        *terminal,
        &defaults.env,
        &overrides.env,
    )?;
    let cwd = overrides.cwd.as_ref().unwrap_or(&defaults.cwd);
    let process = Process {
        args: bundle::resolve_args(defaults, overrides),
        env,
        cwd: if cwd.is_empty() {
            "/".to_owned()
        } else {
            cwd.clone()
        },
        uid: user.uid,
        gid: user.gid,
        additional_gids: user.additional_gids,
        terminal: *terminal,
        // Raising a hard limit takes a capability that not every root has.
        open_files: getrlimit(Resource::Nofile)
            .maximum
            .map_or(bundle::OPEN_FILES_MAX, |own| {
                own.min(bundle::OPEN_FILES_MAX)
            }),
    };
    process.check()?;
    Ok(process)
}

fn hostname(name: &str, spec: &SandboxSpec) -> Result<String, LaunchError> {
    let hostname = match (&spec.hostname, spec.network) {
        (Some(hostname), _) => hostname.clone(),
        (None, Network::None) => name.to_owned(),
        (None, Network::Host) => {
            let path = "/proc/sys/kernel/hostname";
            let text = std::fs::read_to_string(path).map_err(LaunchError::io("read", path))?;
            text.trim().to_owned()
        }
    };
    let valid = hostname
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if valid && (1..=63).contains(&hostname.len()) {
        return Ok(hostname);
    }
    Err(LaunchError::Invalid(format!(
        "{hostname:?} is not a host name"
    )))
}

/// The files of `/etc` that docker provides: the host's own with the host's network.
fn etc_files(
    network: Network,
    hostname: &str,
) -> Result<Vec<(&'static str, Vec<u8>)>, LaunchError> {
    let loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    ETC_FILES
        .into_iter()
        .map(|file| {
            let host = Path::new("/etc").join(file);
            let bytes = match (file, network) {
                ("hostname", _) => format!("{hostname}\n").into_bytes(),
                ("hosts", Network::None) => {
                    format!("{loopback}127.0.0.1\t{hostname}\n").into_bytes()
                }
                (_, Network::None) => Vec::new(),
                (_, Network::Host) => match std::fs::read(&host) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                    read => read.map_err(LaunchError::io("read", &host))?,
                },
            };
            Ok((file, bytes))
        })
        .collect()
}
