//! What the environment says of a collector, by the names that OpenTelemetry gives its variables.
//!
//! The SDK itself reads the sampler, limits of a span, the resource, headers and the timeout.

use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
};

const OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
const OTEL_SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
const OTEL_TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";
/// The one protocol that there is an exporter for.
const GRPC: &str = "grpc";

/// Reads a variable. One that is empty counts as not set, as the specification has it.
pub(super) fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string().ok()?;
    Some(value).filter(|value| !value.is_empty())
}

/// Returns the collector's address. `None` when no variable names one, or one says that nothing is to
/// be exported.
pub(super) fn address(variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let is_off = variable(OTEL_SDK_DISABLED).is_some_and(|text| text.eq_ignore_ascii_case("true"))
        || variable(OTEL_TRACES_EXPORTER).is_some_and(|text| text == "none");
    let address = variable(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
        .or_else(|| variable(OTEL_EXPORTER_OTLP_ENDPOINT));
    let Some(address) = address.filter(|_| !is_off) else {
        return Ok(None);
    };
    let protocol = variable(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL)
        .or_else(|| variable(OTEL_EXPORTER_OTLP_PROTOCOL));
    if let Some(protocol) = protocol.filter(|protocol| protocol != GRPC) {
        return Err(format!("the protocol is {protocol}, not {GRPC}"));
    }
    match address.split_once("://") {
        Some(("http", _)) => Ok(Some(address)),
        None => Ok(Some(format!("http://{address}"))),
        Some((scheme, _)) => Err(format!(
            "the collector's address is {scheme}://, not http://"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        address(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_collector_is_named_by_either_variable() {
        let traces = (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, "http://traces:4317");
        let all = (OTEL_EXPORTER_OTLP_ENDPOINT, "all:4317");
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[all]), Ok(Some("http://all:4317".to_owned())));
        assert_eq!(of(&[all, traces]), Ok(Some(traces.1.to_owned())));
        for off in [(OTEL_SDK_DISABLED, "true"), (OTEL_TRACES_EXPORTER, "none")] {
            assert_eq!(of(&[all, off]), Ok(None));
        }
        let on = [(OTEL_SDK_DISABLED, "false"), (OTEL_TRACES_EXPORTER, "otlp")];
        assert!(of(&[all, on[0], on[1]]).unwrap().is_some());
    }

    #[test]
    fn what_there_is_no_exporter_for_is_refused() {
        let all = (OTEL_EXPORTER_OTLP_ENDPOINT, "http://all:4317");
        of(&[(OTEL_EXPORTER_OTLP_ENDPOINT, "https://all:4317")]).unwrap_err();
        of(&[all, (OTEL_EXPORTER_OTLP_PROTOCOL, "http/protobuf")]).unwrap_err();
        let grpc = (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, GRPC);
        assert!(of(&[all, (OTEL_EXPORTER_OTLP_PROTOCOL, "http/json"), grpc]).is_ok());
    }
}
