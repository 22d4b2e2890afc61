//! The threads that serve connections, each with a runtime of its own.
//!
//! Threads that share their tasks have one of them look after the sockets of all: while the kernel
//! gives its processor to somebody else, every connection waits. Here only its own do, as those of a
//! worker of nginx; `docs/BENCHMARKS.md` has the difference.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Polls of tasks after which a busy thread looks which sockets are ready. One poll may send some MiB
/// and take a millisecond: with tokio's 61, one request in a hundred waited for 60 ms while others were
/// served.
const POLLS: u32 = 4;

/// The threads. They end, whatever they serve, when this is dropped.
#[derive(Debug)]
pub(super) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// One more reference than connections.
    load: Arc<()>,
    _ends_with: oneshot::Sender<()>,
}

impl Workers {
    /// Starts `count` threads; with none, connections are served where they are accepted.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        (0..count)
            .map(|_| Worker::start())
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Has the thread with the fewest connections serve one more. Must be called in a runtime.
    ///
    /// # Errors
    /// When the connection cannot be handed over; it is closed then.
    pub(super) fn serve<S>(
        &self,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream) -> S + Send + 'static,
    ) -> io::Result<()>
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let least = self
            .0
            .iter()
            .min_by_key(|worker| Arc::strong_count(&worker.load));
        let Some(worker) = least else {
            drop(tokio::spawn(serve(stream)));
            return Ok(());
        };
        let (stream, load) = (stream.into_std()?, Arc::clone(&worker.load));
        drop(worker.runtime.spawn(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(%error, "take over connection"),
            }
            drop(load);
        }));
        Ok(())
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(POLLS)
            .build()?;
        let handle = runtime.handle().clone();
        let (ends_with, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("region-worker".to_owned())
            .spawn(move || {
                drop(runtime.block_on(end));
                // A read of a disk that hangs must not hold it up.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            load: Arc::default(),
            _ends_with: ends_with,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers with the name of its thread, and stays.
    async fn serve(mut stream: TcpStream) {
        let thread = format!("{:?}", std::thread::current().id());
        stream.write_all(thread.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn connections_are_spread_evenly_and_end_with_the_threads() {
        let workers = Workers::start(3).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut threads = BTreeMap::<String, usize>::new();
        let mut clients = Vec::new();
        for _ in 0..12 {
            let client = TcpStream::connect(listener.local_addr().unwrap());
            let (client, accepted) = tokio::join!(client, listener.accept());
            workers.serve(accepted.unwrap().0, serve).unwrap();
            let mut client = client.unwrap();
            let mut name = [0; 64];
            let len = client.read(&mut name).await.unwrap();
            let name = String::from_utf8_lossy(&name[..len]).into_owned();
            *threads.entry(name).or_default() += 1;
            clients.push(client);
        }
        assert_eq!(threads.len(), 3, "{threads:?}");
        assert!(threads.values().all(|count| *count == 4), "{threads:?}");
        drop(workers);
        for mut client in clients {
            let end = tokio::time::timeout(Duration::from_secs(60), client.read_u8());
            end.await.unwrap().unwrap_err();
        }
    }

    #[tokio::test]
    async fn without_threads_they_are_served_where_they_are_accepted() {
        let workers = Workers::start(0).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        workers.serve(accepted.unwrap().0, serve).unwrap();
        let mut name = vec![0; 64];
        let len = client.unwrap().read(&mut name).await.unwrap();
        let here = format!("{:?}", std::thread::current().id());
        assert_eq!(String::from_utf8_lossy(&name[..len]), here);
    }
}
