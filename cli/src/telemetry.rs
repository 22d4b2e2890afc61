//! Spans by OpenTelemetry, where the environment names a collector: what a daemon and a member of a
//! region do, and for whose sake.
//!
//! ```text
//! span ends -> queue, bounded -> exporter, on a thread of its own -> collector (OTLP over gRPC)
//! ```
//! Nobody who is served waits for any of it: what the queue has no room for is dropped, and so is what
//! the collector does not take. Without a collector no span is made at all.

mod collector;
mod queue;

use std::time::Duration;

use opentelemetry::Key;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::Registry;

use crate::args::{Arguments, RegionVerb, Verb};
use crate::output;

/// How long what is left may take at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);
/// What the targets of this workspace's spans begin with. Those of the libraries that carry spans to
/// the collector would never end.
const TARGETS: &str = "nacre";
const SERVICE_NAME: Key = Key::from_static_str("service.name");
/// What the SDK calls a service that the environment does not name.
const UNNAMED: &str = "unknown_service";

/// What makes spans.
pub(crate) type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Logging, and the export of spans if there is any.
#[derive(Debug)]
pub(crate) struct Telemetry {
    export: Option<Export>,
}

/// The thread that exports spans.
#[derive(Debug)]
struct Export {
    runtime: Runtime,
    end: oneshot::Sender<()>,
    sending: JoinHandle<()>,
}

/// Returns the name under which a verb's spans are exported, if it makes any.
const fn service_name(verb: &Verb) -> Option<&'static str> {
    match verb {
        Verb::Daemon(_) => Some("nacre-daemon"),
        Verb::Region(RegionVerb::Serve(_)) => Some("nacre-region"),
        _ => None,
    }
}

impl Telemetry {
    /// Starts logging, and exporting spans if the verb makes any and the environment names a
    /// collector. What is wrong with that is logged: nothing that is served depends on it.
    pub(crate) fn start(arguments: &Arguments) -> Self {
        let service = service_name(&arguments.verb);
        let started = service.map_or(Ok(None), Export::start);
        let (export, layer, error) = match started {
            Ok(started) => {
                let (export, layer) = started.unzip();
                (export, layer, None)
            }
            Err(error) => (None, None, Some(error)),
        };
        output::start_logging(&arguments.global, layer);
        if let Some(error) = error {
            tracing::error!(error, "spans are not exported");
        }
        Self { export }
    }

    /// Sends what is left, but does not wait for it for long.
    pub(crate) fn end(self) {
        let Some(Export {
            runtime,
            end,
            sending,
        }) = self.export
        else {
            return;
        };
        end.send(()).unwrap_or_default();
        let sent = async { tokio::time::timeout(FLUSH_DEADLINE, sending).await };
        if runtime.block_on(sent).is_err() {
            tracing::warn!("end before the collector has taken all spans");
        }
        runtime.shutdown_background();
    }
}

impl Export {
    /// Starts the thread, and makes the layer whose spans it exports. `None` without a collector.
    fn start(service: &'static str) -> Result<Option<(Self, SpanLayer)>, String> {
        let Some(address) = collector::address(collector::variable)? else {
            return Ok(None);
        };
        // Apart from the runtime that serves: it exports while that one is busy, and at its end.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("spans")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let exporter = {
            let _entered = runtime.enter();
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(address);
            exporter.build()
        };
        let mut exporter = exporter.map_err(|error| error.to_string())?;
        let resource = resource(service);
        exporter.set_resource(&resource);
        let (queue, spans) = queue::queue();
        let (end, told) = oneshot::channel();
        let sending = runtime.spawn(queue::send(exporter, spans, told));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(queue)
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("nacre"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            // A member learns whose child a request is when it has entered the request's span.
            .with_context_activation(false);
        let ours =
            filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with(TARGETS));
        let layer = layer.with_filter(ours.with_max_level_hint(LevelFilter::DEBUG));
        let export = Self {
            runtime,
            end,
            sending,
        };
        Ok(Some((export, layer.boxed())))
    }
}

/// Returns what is said of the process: what the environment says, and a name for the service.
fn resource(service: &'static str) -> Resource {
    let told = Resource::builder().build();
    match told.get(&SERVICE_NAME) {
        Some(name) if name.as_str() != UNNAMED => told,
        _ => Resource::builder().with_service_name(service).build(),
    }
}
