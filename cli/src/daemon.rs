//! `nacre daemon`: serves the node in the foreground.

mod memory;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use nacre_fs::KeeperOptions;
use nacre_snapshotter::{
    Client, ClientError, ContainerdOptions, Node, NodeOptions, PENDING_BYTES_MAX, serve_containerd,
};
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Daemon;
use crate::crash::crash_hook;
use crate::failure::{BUSY, Failure};
use crate::node::command_line;
use crate::settings::Settings;

/// How long the daemon before may take to end when it is to be taken over from.
const LEAVE_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const LEAVE_POLL: Duration = Duration::from_millis(5);
/// How long requests of the control API may hold up the end of a daemon.
const ANSWERS_DEADLINE: Duration = Duration::from_secs(5);

pub(crate) async fn serve(settings: &Settings, arguments: &Daemon) -> Result<(), Failure> {
    memory::return_large_allocations();
    let root = settings.root.display().to_string();
    let fail = |error: &dyn std::fmt::Display| Failure::new("serve", &root, error);
    std::fs::create_dir_all(&settings.root).map_err(|error| fail(&error))?;
    // Held until the process has ended, threads and all: then no other one reads requests.
    let lock = lock(settings, arguments.takeover).await?;
    let options = node_options(settings)?;
    let runtime = Handle::current();
    let node = tokio::task::spawn_blocking(move || Node::start(options, runtime)).await;
    let node = node
        .map_err(|error| fail(&error))?
        .map_err(|error| fail(&error))?;
    let node = Arc::new(node);
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| fail(&error))?;
    let (hands_over, asked) = tokio::sync::oneshot::channel();
    let handover = Arc::clone(&node);
    let stopped = async move {
        let is_asked = tokio::select! {
            biased;
            _ = terminate.recv() => false,
            _ = tokio::signal::ctrl_c() => false,
            () = handover.handover_asked() => true,
        };
        // Nobody hears it who has ended already.
        hands_over.send(is_asked).unwrap_or_default();
    };
    let primes = tokio::spawn(Arc::clone(&node).prime_bursts());
    tracing::info!(root = %root, "serving");
    let socket = settings.socket();
    let served = tokio::spawn({
        let (node, socket) = (Arc::clone(&node), socket.clone());
        async move { nacre_snapshotter::serve(node, &socket, stopped).await }
    });
    let (ends, ended) = tokio::sync::oneshot::channel::<()>();
    let containerd = serve_containerd(Arc::clone(&node), containerd_options(settings)?, async {
        // However the other end goes away.
        drop(ended.await);
    });
    let containerd = tokio::spawn(async {
        // Sandboxes and mounts go on without it.
        if let Err(error) = containerd.await {
            tracing::error!(%error, "containerd is not served");
        }
    });
    let is_asked = asked.await.unwrap_or(false);
    drop(ends);
    primes.abort();
    let containerd = tokio::time::timeout(ANSWERS_DEADLINE, containerd).await;
    let served = tokio::time::timeout(ANSWERS_DEADLINE, served).await;
    drop(std::fs::remove_file(socket));
    let ended = if is_asked {
        node.hand_over().await
    } else {
        node.stop().await
    };
    // Not before the process is.
    std::mem::forget(lock);
    if containerd.is_err() {
        tracing::warn!("end in the middle of an answer to containerd");
    }
    match served {
        Ok(served) => served
            .map_err(|error| fail(&error))?
            .map_err(|error| fail(&error))?,
        Err(_) => tracing::warn!("end in the middle of an answer"),
    }
    ended.map_err(|error| fail(&error))
}

/// Takes the lock of the one daemon of a root. With `takeover`, asks the daemon that holds it to
/// end and waits for that.
async fn lock(settings: &Settings, takeover: bool) -> Result<File, Failure> {
    let root = settings.root.display().to_string();
    let fail = |error: &dyn std::fmt::Display| Failure::new("serve", &root, error);
    let file = File::create(settings.root.join("daemon.lock")).map_err(|error| fail(&error))?;
    let client = Client::new(settings.socket());
    let deadline = settings.clock.elapsed() + LEAVE_DEADLINE;
    let mut asked = None;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if takeover => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(fail(&"another daemon serves it").with_code(BUSY));
            }
            Err(error) => return Err(fail(&error)),
        }
        if settings.clock.elapsed() > deadline {
            return Err(fail(&"the daemon before does not end").with_code(BUSY));
        }
        // It is asked once; one that has come meanwhile is another.
        match client.info().await {
            Ok(info) if asked == Some(info.pid) => {}
            Ok(_) => match client.hand_over().await {
                Ok(info) => asked = Some(info.pid),
                // It has just ended, or is about to.
                Err(ClientError::NotRunning(_) | ClientError::Connection(_)) => {}
                Err(error) => return Err(fail(&error)),
            },
            // Starting, or ending.
            Err(_) => {}
        }
        settings.clock.sleep(LEAVE_POLL).await;
    }
}

fn containerd_options(settings: &Settings) -> Result<ContainerdOptions, Failure> {
    let root = settings.root.display().to_string();
    let add_image = command_line(settings, "image");
    let mut add_image = add_image.map_err(|error| Failure::new("serve", &root, &error))?;
    // After the verb, for flags are taken anywhere.
    add_image.insert(2, "add".into());
    Ok(ContainerdOptions {
        socket: settings.snapshotter_socket(),
        former_socket: settings.former_snapshotter_socket(),
        containerd: settings.containerd.clone(),
        lazy: settings.lazy,
        add_image,
    })
}

fn node_options(settings: &Settings) -> Result<NodeOptions, Failure> {
    let root = settings.root.display().to_string();
    let fail = |error: &dyn std::fmt::Display| Failure::new("serve", &root, error);
    let keeper = KeeperOptions {
        socket: settings.keeper_socket(),
        inode_log: settings.root.join("inodes.log"),
        log: settings.log(),
        keeper: command_line(settings, "keeper").map_err(|error| fail(&error))?,
        daemon: command_line(settings, "daemon").map_err(|error| fail(&error))?,
    };
    let region = settings.open_region()?;
    Ok(NodeOptions {
        // As the kernel names what is mounted below it.
        root: settings.root.canonicalize().map_err(|error| fail(&error))?,
        index: settings.index_path("node"),
        store: settings.open_store_with_home()?,
        store_url: settings.store.to_string(),
        cache: settings.cache,
        writes_through: region.clone().map(|region| region as _),
        region,
        wait_max: settings.wait_max(),
        check_one_in: settings.check_one_in,
        pending_bytes_max: PENDING_BYTES_MAX,
        clock: Arc::clone(&settings.clock),
        crash: crash_hook(),
        keeper: Some(keeper),
    })
}
