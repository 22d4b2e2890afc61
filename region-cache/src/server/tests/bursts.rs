//! Who is told that a burst of an image begins.

use super::*;

#[tokio::test]
async fn one_of_the_nodes_that_ask_for_a_record_is_told() {
    let lab = Lab::start().await;
    let path = format!("/records/{}", Digest::of(b"record"));
    let key = Key::new(&path[1..]).unwrap();
    lab.store.put(&key, body()).await.unwrap();
    let pack = lab.object().await;
    let told = async |path: &str, node: &str, more: &[(&str, &str)]| {
        let headers = [&[("x-nacre-client", node)], more].concat();
        let answer = lab.get(path, &headers).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.headers.contains_key("x-nacre-burst")
    };
    let mut all = Vec::new();
    for node in 0..20 {
        let node = node.to_string();
        // Who primes waits for nothing, and packs say nothing of starts.
        assert!(
            !told(
                &path,
                &format!("primes {node}"),
                &[("x-nacre-prefetch", "1")]
            )
            .await
        );
        // Nor has who asks for what is here alone come for itself: it asked another member.
        let hedges = [("cache-control", "only-if-cached")];
        assert!(!told(&path, &format!("hedges {node}"), &hedges).await);
        assert!(!told(&pack, &node, &[]).await);
        for _ in 0..2 {
            if told(&path, &node, &[]).await {
                all.push(node.clone());
            }
        }
    }
    assert_eq!(all, ["3"]);
    let metrics = lab.get("/metrics", &[]).await.body;
    let text = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(text.contains("nacre_region_bursts_total 1\n"), "{text}");
}
