//! The way of spans from who made them to the exporter.
//!
//! It takes the place of the SDK's own. That counts the spans that wait after it has queued them; when
//! the exporter takes one in between, the count passes zero, and the addition that follows overflows,
//! on a thread that serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// Spans that wait for the exporter; of more, the newest are dropped. Each takes about 1 KiB.
const QUEUE_SPANS_MAX: usize = 8192;
/// Spans that are sent at once.
const BATCH_SPANS_MAX: usize = 512;
/// How long spans are gathered for the next batch.
const GATHER: Duration = Duration::from_millis(200);
/// How long the collector may take for one, connection included.
const EXPORT_DEADLINE: Duration = Duration::from_secs(10);
/// How long after a failure nothing is sent.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Where spans go when they end. Never waits.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// The other end of a queue.
#[derive(Debug)]
pub(super) struct Queued {
    spans: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// Makes a queue.
pub(super) fn queue() -> (Queue, Queued) {
    let (sender, spans) = mpsc::channel(QUEUE_SPANS_MAX);
    let dropped = Arc::<AtomicU64>::default();
    let queue = Queue {
        spans: sender,
        dropped: Arc::clone(&dropped),
    };
    (queue, Queued { spans, dropped })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends spans to the collector until told to end; then what is left, if it takes that.
pub(super) async fn send<E: SpanExporter>(
    exporter: E,
    mut queued: Queued,
    mut told: oneshot::Receiver<()>,
) {
    let mut sender = Sender {
        exporter,
        is_failing: false,
        dropped: queued.dropped,
    };
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut told => break,
            count = queued.spans.recv_many(&mut batch, BATCH_SPANS_MAX) => if count == 0 {
                break;
            }
        }
        let is_full = batch.len() == BATCH_SPANS_MAX;
        let pause = match sender.deliver(&mut batch).await {
            true if is_full => Duration::ZERO,
            true => GATHER,
            false => FAILURE_PAUSE,
        };
        tokio::select! {
            biased;
            _ = &mut told => break,
            () = sleep(pause) => {}
        }
    }
    queued.spans.close();
    while queued.spans.recv_many(&mut batch, BATCH_SPANS_MAX).await > 0 {
        if !sender.deliver(&mut batch).await {
            break;
        }
    }
    let dropped = sender.dropped.load(Ordering::Relaxed);
    if dropped > 0 {
        tracing::warn!(dropped, "not all spans were exported");
    }
}

struct Sender<E> {
    exporter: E,
    is_failing: bool,
    dropped: Arc<AtomicU64>,
}

impl<E: SpanExporter> Sender<E> {
    /// Sends a batch and empties it. Tells whether the collector took it; one that did not is told of
    /// in the log once.
    async fn deliver(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let count = batch.len() as u64;
        let export = self.exporter.export(std::mem::take(batch));
        let error = match timeout(EXPORT_DEADLINE, export).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        match &error {
            Some(error) if !self.is_failing => {
                tracing::warn!(error, "the collector takes no spans");
            }
            None if self.is_failing => tracing::info!("the collector takes spans again"),
            Some(_) | None => {}
        }
        self.is_failing = error.is_some();
        if self.is_failing {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
        !self.is_failing
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    const SPANS: usize = 2 * BATCH_SPANS_MAX + 1;

    /// Takes spans, or never answers.
    #[derive(Debug, Clone, Default)]
    struct Collector {
        spans: Arc<Mutex<Vec<SpanData>>>,
        hangs: bool,
    }

    impl SpanExporter for Collector {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            assert!(batch.len() <= BATCH_SPANS_MAX);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            self.spans.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn end_spans(queue: Queue, count: usize) {
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .build();
        let tracer = provider.tracer("test");
        (0..count).for_each(|_| tracer.start("span").end());
    }

    #[tokio::test]
    async fn what_is_queued_at_the_end_is_sent() {
        let collector = Collector::default();
        let (queue, queued) = queue();
        end_spans(queue, SPANS);
        let (end, told) = oneshot::channel();
        end.send(()).unwrap();
        send(collector.clone(), queued, told).await;
        assert_eq!(collector.spans.lock().unwrap().len(), SPANS);
    }

    #[tokio::test]
    async fn spans_are_sent_while_others_come() {
        let collector = Collector::default();
        let (queue, queued) = queue();
        let (end, told) = oneshot::channel();
        let sending = tokio::spawn(send(collector.clone(), queued, told));
        end_spans(queue, SPANS);
        while collector.spans.lock().unwrap().len() < SPANS {
            tokio::task::yield_now().await;
        }
        end.send(()).unwrap();
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_collector_that_hangs() {
        let collector = Collector {
            hangs: true,
            ..Collector::default()
        };
        let (queue, queued) = queue();
        let dropped = Arc::clone(&queue.dropped);
        let (_end, told) = oneshot::channel();
        let sending = tokio::spawn(send(collector, queued, told));
        end_spans(queue, QUEUE_SPANS_MAX + SPANS);
        assert!(dropped.load(Ordering::Relaxed) >= SPANS as u64 - BATCH_SPANS_MAX as u64);
        sending.abort();
    }
}
