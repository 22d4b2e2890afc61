//! Spans that members and daemons export, as a collector gets them.

mod collector;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use nacre_blobstore::{Clock, Digest, SystemClock};
use rustix::process::Signal;

use crate::layout::{self, Layer, Packing};
use crate::node::Node;
use crate::region::{Member, arguments};
use crate::tar::{Entry, archive};
use collector::{Collector, Sent};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;
/// More than a member may take to end beside a collector that does not answer.
const END_MAX: Duration = Duration::from_secs(10);
const OBJECT_BYTES: usize = 3 << 20;

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Stores an object and returns its key.
fn store_object(node: &Node) -> String {
    let key = format!("packs/{}", Digest::of(b"pack"));
    let object = node.path("root/store").join(&key);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(&object, vec![7; OBJECT_BYTES]).unwrap();
    key
}

fn serve(node: &Node, variables: &[(&str, &str)]) -> Member {
    let mut command = node.command(&arguments(node));
    command.envs(variables.iter().copied());
    Member::spawn(command)
}

fn traceparent(header: &str) -> String {
    format!("traceparent: {header}\r\n")
}

fn of_name<'a>(spans: &'a [Sent], name: &str) -> Vec<&'a Sent> {
    spans.iter().filter(|sent| sent.span.name == name).collect()
}

#[test]
fn a_request_is_a_child_of_what_it_names_and_the_parent_of_what_it_causes() {
    let (node, collector) = (Node::new(), Collector::start());
    let key = store_object(&node);
    let member = serve(&node, &[(ENDPOINT, &collector.address)]);
    let named = traceparent(&format!("00-{TRACE}-{PARENT}-01"));
    for tier in ["origin", "memory"] {
        let (head, body) = member.get_with(&key, "5-1048999", &named);
        assert!(head.contains(&format!("x-nacre-cache: {tier}")), "{head}");
        assert_eq!(body.len(), 1_048_995);
    }
    // What was to come at the end is there before the process has ended.
    assert_eq!(member.end(Signal::TERM), Some(0));
    let spans = collector.spans();
    let requests = of_name(&spans, "GET object");
    assert_eq!(requests.len(), 2, "{spans:#?}");
    for (request, tier) in requests.iter().zip(["origin", "memory"]) {
        assert_eq!(request.service, "nacre-region");
        assert_eq!(hex(&request.span.trace_id), TRACE);
        assert_eq!(hex(&request.span.parent_span_id), PARENT);
        assert_eq!(request.span.kind, SERVER);
        for (attribute, value) in [
            ("object", &*key),
            ("range", "5-1048999"),
            ("bytes", "1048995"),
            ("tier", tier),
            ("http.request.method", "GET"),
            ("http.response.status_code", "206"),
        ] {
            assert_eq!(request.attribute(attribute), value, "{attribute}");
        }
    }
    // A block each, both for the first request.
    let origin = of_name(&spans, "origin GET");
    assert_eq!(origin.len(), 2, "{spans:#?}");
    for get in origin {
        assert_eq!(hex(&get.span.trace_id), TRACE);
        assert_eq!(get.span.parent_span_id, requests[0].span.span_id);
        assert_eq!(get.attribute("object"), key);
        assert_eq!(get.attribute("bytes"), "1048576");
        assert_eq!(get.attribute("outcome"), "ok");
    }
}

#[test]
fn headers_that_are_none_are_ignored_and_the_environment_is_heard() {
    let (node, collector) = (Node::new(), Collector::start());
    let key = store_object(&node);
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*collector.address),
        ("OTEL_SERVICE_NAME", "cache-7"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
    ];
    let member = serve(&node, &variables);
    let twice = traceparent(&format!("00-{TRACE}-{PARENT}-01")).repeat(2);
    let long = traceparent(&format!("01-{TRACE}-{PARENT}-01-{}", "x".repeat(4000)));
    let state = format!("tracestate: {}\r\n", "k=v,".repeat(1000));
    let hostile = [
        twice,
        long,
        state,
        traceparent(""),
        traceparent("00-00000000000000000000000000000000-0000000000000000-01"),
        traceparent(&format!("00-{}-{PARENT}-01", TRACE.to_uppercase())),
        traceparent(&format!("00-+{}-{PARENT}-01", &TRACE[1..])),
        traceparent(&format!("00-1-{PARENT}-01")),
        traceparent(&format!("ff-{TRACE}-{PARENT}-01")),
    ];
    for header in &hostile {
        let (head, _) = member.get_with(&key, "0-9", header);
        assert!(head.starts_with("HTTP/1.1 206"), "{header}: {head}");
    }
    // Who sends this does not want to see it.
    let unsampled = traceparent(&format!("00-{TRACE}-{PARENT}-00"));
    member.get_with(&key, "0-9", &unsampled);
    assert_eq!(member.end(Signal::TERM), Some(0));
    let spans = collector.spans();
    let requests = of_name(&spans, "GET object");
    assert_eq!(requests.len(), hostile.len(), "{spans:#?}");
    for request in requests {
        assert_eq!(request.service, "cache-7");
        assert_ne!(hex(&request.span.trace_id), TRACE);
        assert!(request.span.parent_span_id.is_empty());
        assert!(request.span.trace_state.is_empty());
    }
}

#[test]
fn a_collector_that_is_dead_keeps_nobody_waiting() {
    let clock = SystemClock::new();
    // One refuses connections, the other takes them and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    for address in [gone.unwrap(), silent.local_addr().unwrap()] {
        let node = Node::new();
        let key = store_object(&node);
        let member = serve(&node, &[(ENDPOINT, &format!("http://{address}"))]);
        for _ in 0..100 {
            let (head, body) = member.get_with(&key, "0-99", "");
            assert!(head.starts_with("HTTP/1.1 206"), "{head}");
            assert_eq!(body, [7; 100]);
        }
        let told = clock.elapsed();
        assert_eq!(member.end(Signal::TERM), Some(0));
        assert!(clock.elapsed() - told < END_MAX);
    }
    // What is no collector's address is told, and nothing else is wrong.
    let node = Node::new();
    let key = store_object(&node);
    for address in ["https://127.0.0.1:1", "http://not an address"] {
        let member = serve(&node, &[(ENDPOINT, address)]);
        let (head, _) = member.get_with(&key, "0-99", "");
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        assert_eq!(member.end(Signal::TERM), Some(0));
    }
}

#[test]
fn without_a_collector_nothing_exports() {
    let (node, collector) = (Node::new(), Collector::start());
    std::fs::create_dir_all(node.path("root/store")).unwrap();
    let off = [
        (ENDPOINT, &*collector.address),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let on = [(ENDPOINT, &*collector.address)];
    for (variables, exports) in [(&[][..], false), (&off[..], false), (&on[..], true)] {
        let member = serve(&node, variables);
        let threads = std::fs::read_dir(format!("/proc/{}/task", member.id())).unwrap();
        let mut names = threads.map(|thread| {
            let name = thread.unwrap().path().join("comm");
            std::fs::read_to_string(name).unwrap()
        });
        assert_eq!(names.any(|name| name == "spans\n"), exports);
        member.end(Signal::TERM);
    }
    assert!(collector.spans().is_empty());
}

#[test]
fn a_read_on_a_node_leads_to_the_member_that_answers_it() {
    let (node, collector) = (Node::new(), Collector::start());
    // One chunk, so that nothing is fetched ahead.
    let body: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = Entry::file("small", body.clone());
    let layer = Layer::new(&archive(&[file]), Packing::Gzip);
    layout::write(&node.path("layout"), &[layer], &serde_json::json!({}));
    let source = format!("oci:{}:v1", node.path("layout").display());
    node.ok(&["image", "add", &source, "--name", "app"]);
    let member = serve(&node, &[(ENDPOINT, &collector.address)]);
    let mount = node.empty("mount");
    let at = mount.to_str().unwrap();
    let mut command: Command =
        node.command(&["--region-cache", member.address(), "mount", "app", at]);
    // The daemon that it starts has its environment.
    let mounted = command.env(ENDPOINT, &collector.address).output().unwrap();
    assert!(mounted.status.success(), "{mounted:?}");
    assert!(std::fs::read(mount.join("small")).unwrap() == body);
    let is_led_to = |spans: &[Sent], first: &str| {
        let gets = of_name(spans, "member GET");
        of_name(spans, "GET object").iter().any(|request| {
            let caller = gets.iter().find(|get| {
                get.span.span_id == request.span.parent_span_id && get.attribute("outcome") == "ok"
            });
            caller.is_some_and(|get| {
                let named = of_name(spans, first);
                let mut named = named.iter();
                get.service == "nacre-daemon"
                    && get.attribute("member") == member.address()
                    && get.attribute("object") == request.attribute("object")
                    && named.any(|first| first.span.trace_id == request.span.trace_id)
            })
        })
    };
    collector.until(|spans| is_led_to(spans, "mount") && is_led_to(spans, "read"));
    node.umount(at);
    member.end(Signal::TERM);
}
