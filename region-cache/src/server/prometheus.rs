//! `/metrics`: the counters of a member in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::metrics::{Tier, Waits, bucket_end_us};
use super::{Member, REQUESTS_MAX};

/// A document under construction.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP nacre_region_{name} {help}"));
        self.line(format_args!("# TYPE nacre_region_{name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes whatever is written to it.
        writeln!(self.0, "{line}").unwrap_or_default();
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(format_args!("nacre_region_{name} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.single(name, "counter", help, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.single(name, "gauge", help, value);
    }

    fn waits(&mut self, name: &str, tier: Tier, waits: &Waits) {
        let tier = tier.name();
        let counts = waits.counts();
        let mut total = 0;
        for (bucket, count) in counts.iter().enumerate() {
            total += count;
            let is_last = bucket + 1 == counts.len();
            let end = if is_last {
                "+Inf".to_owned()
            } else {
                (std::time::Duration::from_micros(bucket_end_us(bucket)).as_secs_f64()).to_string()
            };
            self.line(format_args!(
                "nacre_region_{name}_bucket{{tier=\"{tier}\",le=\"{end}\"}} {total}"
            ));
        }
        let sum = waits.total().as_secs_f64();
        self.line(format_args!(
            "nacre_region_{name}_sum{{tier=\"{tier}\"}} {sum}"
        ));
        self.line(format_args!(
            "nacre_region_{name}_count{{tier=\"{tier}\"}} {total}"
        ));
    }
}

impl Member {
    /// Returns all metrics as text.
    pub(super) fn prometheus(&self) -> String {
        let mut page = Page::default();
        self.tiers(&mut page);
        self.origin(&mut page);
        self.storage(&mut page);
        self.clients(&mut page);
        page.0
    }

    fn tiers(&self, page: &mut Page) {
        let metrics = &self.cache.metrics;
        page.head("reads_total", "counter", "Parts of blocks served, by tier");
        for tier in Tier::ALL {
            let (name, value) = (tier.name(), metrics.tier(tier).reads.get());
            page.line(format_args!(
                "nacre_region_reads_total{{tier=\"{name}\"}} {value}"
            ));
        }
        page.head("bytes_total", "counter", "Bytes served, by tier");
        for tier in Tier::ALL {
            let (name, value) = (tier.name(), metrics.tier(tier).bytes.get());
            page.line(format_args!(
                "nacre_region_bytes_total{{tier=\"{name}\"}} {value}"
            ));
        }
        let help = "Time until a part of a block was there, by tier";
        page.head("wait_seconds", "histogram", help);
        for tier in Tier::ALL {
            page.waits("wait_seconds", tier, &metrics.tier(tier).waits);
        }
    }

    fn origin(&self, page: &mut Page) {
        let (metrics, queue) = (&self.cache.metrics, &self.cache.queue);
        page.counter(
            "origin_gets_total",
            "GETs sent to the origin",
            metrics.origin_gets.get(),
        );
        page.counter(
            "origin_bytes_total",
            "Bytes from the origin",
            metrics.origin_bytes.get(),
        );
        page.counter(
            "origin_errors_total",
            "Failed GETs",
            metrics.origin_errors.get(),
        );
        page.counter(
            "joined_total",
            "Reads that joined a fetch under way",
            metrics.joined.get(),
        );
        page.gauge(
            "origin_queue",
            "Fetches that wait for a turn",
            queue.waiting() as u64,
        );
        page.gauge(
            "origin_under_way",
            "Fetches under way",
            queue.under_way() as u64,
        );
        page.counter(
            "shed_total",
            "Requests and fetches turned away",
            metrics.shed.get(),
        );
    }

    fn storage(&self, page: &mut Page) {
        let cache = &self.cache;
        let (bytes, blocks) = cache.memory_use();
        page.gauge("memory_tier_bytes", "Bytes of the memory tier", bytes);
        page.gauge(
            "memory_tier_blocks",
            "Blocks of the memory tier",
            blocks as u64,
        );
        page.gauge(
            "memory_bytes",
            "Bytes of all blocks in memory",
            cache.budget.bytes(),
        );
        page.gauge(
            "memory_limit_bytes",
            "Their limit",
            cache.budget.bytes_max(),
        );
        let evictions = cache.metrics.memory_evictions.get();
        page.counter(
            "memory_evictions_total",
            "Blocks evicted from memory",
            evictions,
        );
        let Some(disk) = cache.disk() else {
            return;
        };
        let (blocks, bad) = disk.len();
        let counters = &disk.counters;
        let value = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        page.gauge("disk_blocks", "Blocks on the disk", blocks as u64);
        page.gauge(
            "disk_bad_slots",
            "Slots that could not be written",
            bad as u64,
        );
        page.counter(
            "disk_evictions_total",
            "Blocks evicted",
            value(&counters.evictions),
        );
        page.counter(
            "disk_corrupt_total",
            "Blocks with a wrong checksum",
            value(&counters.corrupt),
        );
        page.counter(
            "disk_errors_total",
            "Failed reads and writes",
            value(&counters.errors),
        );
        page.gauge(
            "disk_unanswered_reads",
            "Reads that the disk has not answered",
            disk.unanswered() as u64,
        );
        page.counter(
            "disk_unstored_total",
            "Blocks not stored",
            value(&counters.unstored),
        );
    }

    fn clients(&self, page: &mut Page) {
        let metrics = &self.cache.metrics;
        page.counter(
            "reports_total",
            "Reports of wrong bytes",
            metrics.reports.get(),
        );
        page.counter(
            "reported_blocks_total",
            "Blocks dropped for them",
            metrics.reported_blocks.get(),
        );
        page.counter("puts_total", "Objects written through", metrics.puts.get());
        page.counter("put_bytes_total", "Their bytes", metrics.put_bytes.get());
        page.counter(
            "bursts_total",
            "Bursts of an image that a node was told of",
            metrics.bursts.get(),
        );
        page.counter(
            "refused_total",
            "Requests without the right to",
            metrics.refused.get(),
        );
        let closed = metrics.connections_closed.get();
        let open = metrics.connections.get().saturating_sub(closed);
        page.gauge("connections", "Open connections", open);
        let under_way = REQUESTS_MAX.saturating_sub(self.requests.available_permits());
        page.counter(
            "requests_total",
            "Requests for objects",
            metrics.requests.get(),
        );
        page.gauge(
            "requests_under_way",
            "Requests whose answer has not begun",
            under_way as u64,
        );
        page.gauge(
            "draining",
            "Whether the member is about to end",
            self.is_draining().into(),
        );
    }
}
