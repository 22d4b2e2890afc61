//! The trace that a request belongs to, in its `traceparent` header
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! Read and written here and not by the SDK's propagator. That takes ids of any length, a `+` before
//! them, and a `tracestate` of any size, which it would keep with each span; and it refuses the flags
//! of the specification's second level.

#[cfg(test)]
pub(crate) mod testing;

use hyper::HeaderMap;
use hyper::header::HeaderValue;
use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// Length of a header of version 0, in bytes, which those of later versions begin like.
const HEADER_BYTES: usize = 55;
/// Longest header of a later version that is looked at, in bytes.
const HEADER_BYTES_MAX: usize = 256;
/// The version that there will never be.
const VERSION_INVALID: &str = "ff";

/// Returns what tells a member that its span is a child of `span`. `None` when nobody exports it.
pub(crate) fn traceparent(span: &Span) -> Option<HeaderValue> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return None;
    }
    let (trace, id) = (span.trace_id(), span.span_id());
    let flags = (span.trace_flags() & TraceFlags::SAMPLED).to_u8();
    HeaderValue::try_from(format!("00-{trace}-{id}-{flags:02x}")).ok()
}

/// Makes `span` a child of the one that a request's headers name, if they name one. To be done before
/// it has children, and for whom the member knows: it is the client that says what is sampled.
pub(crate) fn adopt(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let mut named = headers.get_all(TRACEPARENT).iter();
    // With two of them nobody knows which is right.
    let (Some(header), None) = (named.next(), named.next()) else {
        return;
    };
    if let Some(parent) = parse(header.as_bytes()) {
        let context = Context::new().with_remote_span_context(parent);
        // An error says that nobody exports the span.
        span.set_parent(context).unwrap_or_default();
    }
}

/// Reads a header. `None` for what the specification calls invalid.
fn parse(header: &[u8]) -> Option<SpanContext> {
    if header.len() > HEADER_BYTES_MAX {
        return None;
    }
    let (fields, rest) = header.split_at_checked(HEADER_BYTES)?;
    let fields = std::str::from_utf8(fields).ok()?;
    let mut parts = fields.split('-');
    let [version, trace, span, flags] = [2, 32, 16, 2].map(|len| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let part = parts.next().filter(|part| part.len() == len);
        part.filter(|part| part.bytes().all(is_digit))
    });
    let is_whole = match version? {
        VERSION_INVALID => false,
        "00" => rest.is_empty(),
        _ => rest.first().is_none_or(|next| *next == b'-'),
    };
    let flags = u8::from_str_radix(flags?, 16).ok()?;
    let context = SpanContext::new(
        TraceId::from_hex(trace?).ok()?,
        SpanId::from_hex(span?).ok()?,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    (is_whole && context.is_valid()).then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn well_formed_headers_are_read() {
        for (version, flags, rest, sampled) in [
            ("00", "00", "", false),
            ("00", "01", "", true),
            ("00", "03", "", true),
            ("00", "fe", "", false),
            ("01", "01", "", true),
            ("cc", "01", "-what-comes-later", true),
        ] {
            let header = format!("{version}-{TRACE}-{SPAN}-{flags}{rest}");
            let context = parse(header.as_bytes()).unwrap();
            assert_eq!(context.trace_id().to_string(), TRACE);
            assert_eq!(context.span_id().to_string(), SPAN);
            assert_eq!(context.is_sampled(), sampled, "{header}");
            assert!(context.is_remote());
        }
    }

    #[test]
    fn all_others_are_ignored() {
        let zeros = "0".repeat(32);
        for header in [
            String::new(),
            "-".repeat(HEADER_BYTES),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-001", &TRACE[1..]),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!(" 0-{TRACE}-{SPAN}-01"),
            format!("01-{TRACE}-{SPAN}-01-{}", "x".repeat(HEADER_BYTES_MAX)),
            format!("00-{TRACE}-{}\u{e9}-01", &SPAN[2..]),
        ] {
            assert_eq!(parse(header.as_bytes()), None, "{header}");
        }
        assert_eq!(parse(&[0xff; HEADER_BYTES]), None);
    }
}
