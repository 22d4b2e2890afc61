//! The socket.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use futures::stream;
use tokio::net::UnixListener;
use tonic::transport::Server;

use super::differ::Differ;
use super::proto::diff::diff_server::DiffServer;
use super::proto::snapshots_server::SnapshotsServer;
use super::service::Service;

/// Largest message, in bytes: containerd's own limit.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Requests of one connection that are worked on at once; containerd has one connection.
const REQUESTS_MAX: usize = 512;

/// Why containerd cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// The socket cannot be made.
    #[error("serve containerd at {socket}: {source}")]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server ended.
    #[error("serve containerd: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves the snapshots, and layers of them, until `until` is done.
pub(super) async fn serve(
    service: Service,
    differ: Differ,
    listener: UnixListener,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ContainerdError> {
    let connections = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(connection, _)| connection);
        Some((accepted, listener))
    });
    let snapshots = SnapshotsServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .concurrency_limit_per_connection(REQUESTS_MAX)
        .add_service(snapshots)
        .add_service(DiffServer::new(differ).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(connections, until)
        .await?;
    Ok(())
}

/// Makes the socket, with `former` as another name of it, in the same folder. What is there was left
/// by a dead daemon.
pub(super) fn bind(socket: &Path, former: &Path) -> Result<UnixListener, ContainerdError> {
    let make = || {
        remove(socket)?;
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
        remove(former)?;
        // Not its path, which can be relative, to another folder than this one.
        std::os::unix::fs::symlink(socket.file_name().unwrap_or_default(), former)?;
        Ok(listener)
    };
    make().map_err(|source| ContainerdError::Socket {
        socket: socket.to_owned(),
        source,
    })
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_two_names_after_a_dead_daemon_too() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, former) = (folder.path().join("a.sock"), folder.path().join("b.sock"));
        drop(UnixListener::bind(&former).unwrap());
        for _ in 0..2 {
            let listener = bind(&socket, &former).unwrap();
            for name in [&socket, &former] {
                let asked = tokio::net::UnixStream::connect(name).await;
                assert!(asked.is_ok(), "{}", name.display());
                listener.accept().await.unwrap();
            }
        }
        assert_eq!(std::fs::read_link(&former).unwrap(), Path::new("a.sock"));
        let missing = folder.path().join("none/a.sock");
        assert!(matches!(
            bind(&missing, &former),
            Err(ContainerdError::Socket { .. })
        ));
    }
}
