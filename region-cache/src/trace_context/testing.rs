//! Spans as they would be exported, for tests.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt as _;

/// With a single subscriber `tracing` asks the thread that meets a span first whether anybody wants it
/// ever, and that may be another test's, which has none.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

/// Keeps the spans of this thread that have ended.
pub(crate) struct Recorder {
    spans: Kept,
    _guard: DefaultGuard,
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.extend(batch);
        Ok(())
    }
}

impl Recorder {
    /// Records until it is dropped.
    pub(crate) fn start() -> Self {
        LazyLock::force(&SECOND);
        let spans = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(spans.clone())
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("test"))
            .with_context_activation(false);
        let subscriber = tracing_subscriber::registry().with(layer);
        Self {
            spans,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// Waits until so many spans of a name have ended.
    pub(crate) async fn ended(&self, name: &str, count: usize) -> Vec<SpanData> {
        while self.named(name).len() < count {
            tokio::task::yield_now().await;
        }
        self.named(name)
    }

    /// Returns the spans of a name that have ended, in the order of that.
    pub(crate) fn named(&self, name: &str) -> Vec<SpanData> {
        let spans = self.spans.0.lock();
        let spans = spans.unwrap_or_else(PoisonError::into_inner);
        spans
            .iter()
            .filter(|span| span.name == name)
            .cloned()
            .collect()
    }
}

/// Returns an attribute of a span as text; empty when it has none.
pub(crate) fn attribute(span: &SpanData, key: &str) -> String {
    let found = span
        .attributes
        .iter()
        .find(|found| found.key.as_str() == key);
    found.map_or_else(String::new, |found| found.value.to_string())
}
