use std::io::Write as _;

use futures::TryStreamExt as _;
use serde_json::json;

use super::*;
use crate::oci::resolve::ImageSource;
use crate::oci::testing::TestImage;

/// Builds an archive as docker before version 25 wrote them.
fn archive(images: &[(&TestImage, &[&str])]) -> tempfile::NamedTempFile {
    let mut tar = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
    let mut listed = Vec::new();
    for (number, (image, tags)) in images.iter().enumerate() {
        let mut names = Vec::new();
        for (layer, bytes) in image.layers.iter().enumerate() {
            names.push(format!("{number}-{layer}/layer.tar"));
            append(&mut tar, &names[layer], bytes);
        }
        append(&mut tar, &format!("{number}.json"), &image.config);
        listed.push(json!({"Config": format!("{number}.json"), "RepoTags": tags, "Layers": names}));
    }
    append(
        &mut tar,
        "manifest.json",
        json!(listed).to_string().as_bytes(),
    );
    tar.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<tempfile::NamedTempFile>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes).unwrap();
}

#[tokio::test]
async fn a_saved_image_gets_the_same_manifest_each_time() {
    let image = TestImage::new("linux/amd64", &[3000, 5]);
    let file = archive(&[(&image, &["app:v1"])]);
    let source = DockerArchive::open(file.path(), None).await.unwrap();
    let resolved = source
        .resolve(&"linux/amd64".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(resolved.config, image.config);
    let again = DockerArchive::open(file.path(), Some("app:v1"))
        .await
        .unwrap();
    let again = again
        .resolve(&"linux/amd64".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(again.manifest, resolved.manifest);
    // It is the one that would have been pushed: layers, config and order agree.
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(value(&resolved.manifest), value(&image.manifest));
    for (layer, bytes) in resolved.layers.iter().zip(&image.layers) {
        assert_eq!(layer.digest, layer.diff_id);
        let stream = source.open_blob(layer).await.unwrap();
        assert_eq!(
            stream.try_collect::<Vec<_>>().await.unwrap().concat(),
            bytes.as_ref()
        );
    }
}

#[tokio::test]
async fn a_layer_that_is_not_its_diff_id_is_corrupt() {
    let mut image = TestImage::new("linux/amd64", &[3000]);
    image.layers[0] = vec![9; 3000].into();
    let file = archive(&[(&image, &["app:v1"])]);
    let source = DockerArchive::open(file.path(), None).await.unwrap();
    let resolved = source
        .resolve(&"linux/amd64".parse().unwrap())
        .await
        .unwrap();
    let stream = source.open_blob(&resolved.layers[0]).await.unwrap();
    let end = stream.try_collect::<Vec<_>>().await;
    assert!(matches!(end, Err(OciError::Corrupt { .. })), "{end:?}");
}

#[tokio::test]
async fn compressed_layers_are_named_by_what_is_stored() {
    let mut image = TestImage::new("linux/amd64", &[3000]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&image.layers[0]).unwrap();
    let gzip = gzip.finish().unwrap();
    image.layers[0] = gzip.clone().into();
    let file = archive(&[(&image, &[])]);
    let source = DockerArchive::open(file.path(), None).await.unwrap();
    let resolved = source
        .resolve(&"linux/amd64".parse().unwrap())
        .await
        .unwrap();
    let layer = &resolved.layers[0];
    assert_eq!(
        (layer.compression, &layer.digest),
        (Compression::Gzip, &OciDigest::of(&gzip))
    );
    let stream = source.open_blob(layer).await.unwrap();
    assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().concat(), gzip);
}

#[tokio::test]
async fn tags_choose_among_several_images() {
    let (one, two) = (
        TestImage::new("linux/amd64", &[1]),
        TestImage::new("linux/amd64", &[2, 3]),
    );
    let file = archive(&[(&one, &["app:v1", "ghcr.io/x/app:v1"]), (&two, &["app:v2"])]);
    for (tag, layers) in [
        ("app:v1", 1),
        ("ghcr.io/x/app:v1", 1),
        ("docker.io/library/app:v2", 2),
        ("v2", 2),
    ] {
        let source = DockerArchive::open(file.path(), Some(tag)).await.unwrap();
        let resolved = source
            .resolve(&"linux/amd64".parse().unwrap())
            .await
            .unwrap();
        assert_eq!(resolved.layers.len(), layers, "{tag}");
    }
    let ambiguous = DockerArchive::open(file.path(), None).await.unwrap_err();
    assert!(
        ambiguous
            .to_string()
            .contains("app:v1, ghcr.io/x/app:v1, app:v2"),
        "{ambiguous}"
    );
    let missing = DockerArchive::open(file.path(), Some("v3")).await;
    assert!(matches!(missing, Err(OciError::NotFound(_))), "{missing:?}");
}

#[tokio::test]
async fn an_archive_that_contradicts_itself_is_malformed() {
    let mut image = TestImage::new("linux/amd64", &[1, 2]);
    image.layers.pop();
    let file = archive(&[(&image, &[])]);
    let error = DockerArchive::open(file.path(), None).await.unwrap_err();
    assert!(
        error.to_string().contains("1 layers, 2 diff_ids"),
        "{error}"
    );
}
