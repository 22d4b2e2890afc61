use serde_json::{Value, json};

use super::*;
use crate::oci::testing::describe;

fn parse(document: &Value, announced: &str) -> Result<Document, OciError> {
    Document::parse(document.to_string().as_bytes(), announced, "the manifest")
}

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "config": describe(OCI_CONFIG, b"{}"),
        "layers": [describe(OCI_LAYER, b"x")],
    })
}

fn with_layer(layer: Value) -> Value {
    let mut document = image();
    document["layers"][0] = layer;
    document
}

fn refusal(document: &Value) -> String {
    match parse(document, "") {
        Err(OciError::Unsupported(message)) => message,
        other => panic!("{document} is {other:?}"),
    }
}

#[test]
fn images_of_both_kinds_are_understood() {
    for (stated, announced, media_type) in [
        (None, "", OCI_MANIFEST),
        (None, DOCKER_MANIFEST, DOCKER_MANIFEST),
        (Some(DOCKER_MANIFEST), "application/json", DOCKER_MANIFEST),
        (Some(OCI_MANIFEST), OCI_MANIFEST, OCI_MANIFEST),
    ] {
        let mut document = image();
        if let Some(stated) = stated {
            document["mediaType"] = stated.into();
        }
        match parse(&document, announced).unwrap() {
            Document::Image(image) => assert_eq!(image.media_type, media_type),
            Document::Index(_) => panic!("{document}"),
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": [], "annotations": null});
    assert!(
        matches!(parse(&index, DOCKER_INDEX), Ok(Document::Index(entries)) if entries.is_empty())
    );
}

#[test]
fn layer_types_tell_the_compression() {
    for (media_type, expected) in [
        ("application/vnd.oci.image.layer.v1.tar", Compression::None),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Gzip,
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            Compression::Zstd,
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Compression::Gzip,
        ),
    ] {
        match parse(&with_layer(describe(media_type, b"x")), "").unwrap() {
            Document::Image(image) => assert_eq!(image.layers[0].1, expected, "{media_type}"),
            Document::Index(_) => panic!(),
        }
    }
}

#[test]
fn what_cannot_be_ingested_is_refused_by_name() {
    let schema1 = json!({"schemaVersion": 1, "name": "a", "fsLayers": []});
    assert!(refusal(&schema1).contains("schema 1"));
    for (media_type, word) in [
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "foreign",
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "foreign",
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "encrypted",
        ),
        (
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "unknown media type",
        ),
        ("", "unknown media type"),
    ] {
        let message = refusal(&with_layer(describe(media_type, b"x")));
        assert!(message.contains(word), "{media_type:?}: {message}");
    }
    let mut elsewhere = describe(OCI_LAYER, b"x");
    elsewhere["urls"] = json!(["https://example.com/layer"]);
    assert!(refusal(&with_layer(elsewhere)).contains("other urls"));
    let mut artifact = image();
    artifact["artifactType"] = "application/spdx+json".into();
    assert!(refusal(&artifact).contains("artifact"));
    let mut chart = image();
    chart["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    assert!(refusal(&chart).contains("artifact"));
    let mut many = image();
    many["layers"] = vec![describe(OCI_LAYER, b"x"); LAYERS_MAX + 1].into();
    assert!(refusal(&many).contains("more than 1000 layers"));
}

#[test]
fn ambiguous_and_broken_documents_are_malformed() {
    let mut both = image();
    both["manifests"] = json!([]);
    let mut index_by_name = image();
    index_by_name["mediaType"] = OCI_INDEX.into();
    let mut sha1 = image();
    sha1["layers"][0]["digest"] = "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709".into();
    let mut negative = image();
    negative["layers"][0]["size"] = (-1).into();
    for document in [
        both,
        index_by_name,
        sha1,
        negative,
        json!({"schemaVersion": 2}),
        json!({"schemaVersion": 2, "layers": []}),
        json!({"config": {}}),
        json!([]),
    ] {
        let parsed = parse(&document, "");
        assert!(
            matches!(parsed, Err(OciError::Malformed { .. })),
            "{document}: {parsed:?}"
        );
    }
    assert!(matches!(
        parse(&image(), OCI_INDEX),
        Err(OciError::Malformed { .. })
    ));
    let mut stated = image();
    stated["mediaType"] = OCI_MANIFEST.into();
    assert!(matches!(
        parse(&stated, DOCKER_INDEX),
        Err(OciError::Malformed { .. })
    ));
}
