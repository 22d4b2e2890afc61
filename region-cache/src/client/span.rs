//! The span of a request to a member, for whoever records spans.

use nacre_blobstore::{range_text, span_number};
use tracing::Span;
use tracing::field::Empty;

use super::wire::{Answer, Ask, Had, WireError};

/// Returns the span of a request to `member`. `hedged` says that another member was asked for the
/// same before and has not answered yet.
pub(super) fn member_get(member: &str, ask: &Ask, hedged: bool) -> Span {
    tracing::debug_span!(
        "member GET",
        otel.kind = "client",
        member,
        object = %ask.key,
        range = ask.range.as_ref().map(range_text),
        hedged,
        only_if_cached = ask.only_if_cached,
        bytes = Empty,
        tier = Empty,
        outcome = Empty,
        otel.status_code = Empty,
    )
}

/// Notes what came of the request. A span without an outcome is of one that was given up, for
/// another member was faster or the reader has left.
pub(super) fn note_outcome(span: &Span, outcome: &Result<Answer, WireError>) {
    if span.is_disabled() {
        return;
    }
    let text = match outcome {
        Ok(answer) => {
            span.record("bytes", span_number(answer.bytes.len() as u64));
            let tier = match answer.had {
                Had::Memory => "memory",
                Had::Disk => "disk",
                Had::Origin => "origin",
            };
            span.record("tier", tier);
            "ok"
        }
        Err(WireError::Busy(_)) => "busy",
        Err(WireError::Refused(_)) => "refused",
        Err(WireError::Failed(_)) => {
            span.record("otel.status_code", "error");
            "failed"
        }
    };
    span.record("outcome", text);
}
