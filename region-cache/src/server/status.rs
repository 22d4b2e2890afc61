//! `/status`: one page for people, without scripts or anything from elsewhere.

mod chart;
mod samples;

use std::fmt::Write as _;

use self::chart::{Line, chart};
pub(super) use self::samples::{Peers, SAMPLE_EVERY, Samples};
use super::Member;
use super::hottest::Hottest;
use super::metrics::{Tier, bucket_end_us};

/// Keys that are shown.
const HOTTEST_MAX: usize = 20;

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:2em auto;max-width:60em;\
padding:0 1em;color:#222;background:#fff}h2{margin:1.6em 0 .4em;font-size:1.1em}\
table{border-collapse:collapse}td,th{padding:.15em .8em .15em 0;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}";

/// Colours that people who see few colours tell apart (Okabe and Ito 2008).
const fn colour(tier: Tier) -> &'static str {
    match tier {
        Tier::Memory => "#009e73",
        Tier::Disk => "#0072b2",
        Tier::Origin => "#d55e00",
    }
}

impl Member {
    /// Returns the page.
    pub(super) fn status(&self) -> String {
        let mut page = String::from(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <meta http-equiv=\"refresh\" content=\"30\"><title>nacre region</title><style>",
        );
        page.push_str(STYLE);
        page.push_str("</style><h1>nacre region</h1>");
        self.summary(&mut page);
        page.push_str("<h2>Bytes served without the origin, last hour</h2>");
        page.push_str(&self.samples.hit_ratio());
        page.push_str("<h2>Waits for a part of a block</h2>");
        page.push_str(&self.waits());
        self.members(&mut page);
        let (images, objects) = (&self.hottest_images, &self.hottest);
        hottest(
            &mut page,
            "Hottest images, by requests for their records",
            images,
        );
        hottest(&mut page, "Hottest other objects, by requests", objects);
        page
    }

    fn summary(&self, page: &mut String) {
        let cache = &self.cache;
        let metrics = &cache.metrics;
        page.push_str("<table>");
        let (tier_bytes, _) = cache.memory_use();
        row(page, "memory tier", &mib(tier_bytes));
        let all = format!(
            "{} of {}",
            mib(cache.budget.bytes()),
            mib(cache.budget.bytes_max())
        );
        row(page, "all blocks in memory", &all);
        if let Some(disk) = cache.disk() {
            let (blocks, bad) = disk.len();
            let bytes = blocks as u64 * u64::from(cache.block_bytes);
            row(
                page,
                "disk",
                &format!("{} in {blocks} blocks, {bad} bad slots", mib(bytes)),
            );
        }
        for tier in Tier::ALL {
            let counters = metrics.tier(tier);
            let text = format!(
                "{} in {} reads",
                mib(counters.bytes.get()),
                counters.reads.get()
            );
            row(page, &format!("served from {}", tier.name()), &text);
        }
        let origin = format!(
            "{} in {} requests; {} wait, {} under way",
            mib(metrics.origin_bytes.get()),
            metrics.origin_gets.get(),
            cache.queue.waiting(),
            cache.queue.under_way()
        );
        row(page, "fetched", &origin);
        row(page, "turned away", &metrics.shed.get().to_string());
        page.push_str("</table>");
    }

    /// Draws, for each tier, which part of its reads waited for at most so long.
    fn waits(&self) -> String {
        let lines = Tier::ALL.map(|tier| {
            let counts = self.cache.metrics.tier(tier).waits.counts();
            let total = counts.iter().sum::<u64>();
            let mut sum = 0;
            let points = counts.iter().enumerate().map(|(bucket, count)| {
                sum += count;
                let share = sum as f64 / total.max(1) as f64;
                // Buckets double, so their numbers are a logarithmic scale.
                ((bucket + 1) as f64 / counts.len() as f64, share)
            });
            Line {
                name: tier.name(),
                colour: colour(tier),
                points: if total == 0 {
                    Vec::new()
                } else {
                    points.collect()
                },
            }
        });
        let marks = [1, 6, 11, 16, 21].map(|bucket| {
            let at = (bucket + 1) as f64 / super::metrics::BUCKETS as f64;
            (at, duration(bucket_end_us(bucket)))
        });
        chart(&lines, &marks)
    }

    fn members(&self, page: &mut String) {
        let shares = self.samples.shares();
        if shares.is_empty() {
            return;
        }
        page.push_str("<h2>Members, by the bytes that they served</h2><table>");
        for (name, share) in shares {
            let text = share.map_or_else(
                || "does not answer".to_owned(),
                |share| format!("{:.1} %", share * 100.0),
            );
            row(page, &name, &text);
        }
        page.push_str("</table>");
    }
}

/// Adds the keys that were asked for most.
fn hottest(page: &mut String, title: &str, counts: &Hottest) {
    write!(page, "<h2>{title}</h2><table>").unwrap_or_default();
    for (key, count) in counts.top(HOTTEST_MAX) {
        row(page, key.as_str(), &count.to_string());
    }
    page.push_str("</table>");
}

/// Adds a row; nothing in it may be taken for markup.
fn row(page: &mut String, name: &str, value: &str) {
    let (name, value) = (escape(name), escape(value));
    write!(page, "<tr><td>{name}<td class=\"n\">{value}").unwrap_or_default();
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}
