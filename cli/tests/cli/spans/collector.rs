//! A collector that keeps what it is sent.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::node::pause;

const POLLS_MAX: u32 = 400;

/// A span as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) service: String,
    pub(super) span: Span,
}

impl Sent {
    /// The text of an attribute; empty when there is none.
    pub(super) fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }
}

#[derive(Debug, Clone, Default)]
struct Sink(Arc<Mutex<Vec<Sent>>>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut sent = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_spans {
            let service = text(&of_resource.resource.unwrap().attributes, "service.name");
            for of_scope in of_resource.scope_spans {
                sent.extend(of_scope.spans.into_iter().map(|span| Sent {
                    service: service.clone(),
                    span,
                }));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector, until it is dropped.
pub(super) struct Collector {
    pub(super) address: String,
    sink: Sink,
    _runtime: Runtime,
}

impl Collector {
    pub(super) fn start() -> Self {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let sink = Sink::default();
        let incoming = {
            let _entered = runtime.enter();
            TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap()
        };
        let address = format!("http://{}", incoming.local_addr().unwrap());
        let service = TraceServiceServer::new(sink.clone());
        let server = Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(incoming));
        Self {
            address,
            sink,
            _runtime: runtime,
        }
    }

    /// All spans so far, in the order in which they began.
    pub(super) fn spans(&self) -> Vec<Sent> {
        let mut spans = self.sink.0.lock().unwrap().clone();
        spans.sort_by_key(|sent| sent.span.start_time_unix_nano);
        spans
    }

    /// Waits until the spans are as they are to be.
    pub(super) fn until(&self, is_so: impl Fn(&[Sent]) -> bool) {
        let came = (0..POLLS_MAX).any(|_| {
            pause();
            is_so(&self.spans())
        });
        assert!(came, "{:#?}", self.spans());
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|found| found.value.clone()?.value);
    match value {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        Some(other) => panic!("{key} is {other:?}"),
    }
}
