//! Layouts and archives through [`open`], as users name them.

use std::path::Path;

use futures::TryStreamExt as _;
use serde_json::json;

use super::testing::{FakeRegistry, Faults, TestImage, describe};
use super::*;

fn write_blob(directory: &Path, blob: &[u8]) {
    std::fs::write(
        directory
            .join("blobs/sha256")
            .join(OciDigest::of(blob).hex()),
        blob,
    )
    .unwrap();
}

/// Writes a layout of images under tags; the empty tag stands for none.
fn write_layout(directory: &Path, images: &[(&str, &TestImage)]) {
    std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    let mut entries = Vec::new();
    for (tag, image) in images {
        image
            .blobs()
            .iter()
            .chain([&image.manifest])
            .for_each(|b| write_blob(directory, b));
        let mut entry = describe(OCI_MANIFEST, &image.manifest);
        if !tag.is_empty() {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    std::fs::write(directory.join("index.json"), index).unwrap();
    std::fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

async fn resolve(source: &str) -> Result<(Arc<dyn ImageSource>, ResolvedImage), OciError> {
    let source = open(&source.parse().unwrap(), &RegistryOptions::default()).await?;
    let image = source.resolve(&"linux/amd64".parse().unwrap()).await?;
    Ok((source, image))
}

/// Asserts that `source` gives this image and all of its layers.
async fn assert_is(source: &str, image: &TestImage) {
    let (source, resolved) = resolve(source).await.unwrap();
    assert_eq!(
        (&resolved.manifest, &resolved.config),
        (&image.manifest, &image.config)
    );
    for (layer, expected) in resolved.layers.iter().zip(&image.layers) {
        let stream = source.open_blob(layer).await.unwrap();
        assert_eq!(
            stream.try_collect::<Vec<_>>().await.unwrap().concat(),
            expected.as_ref()
        );
    }
}

#[tokio::test]
async fn layouts_and_their_archives_hold_the_same_images() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (
        TestImage::new("linux/amd64", &[600_000, 1]),
        TestImage::new("linux/amd64", &[10]),
    );
    let layout = directory.path().join("layout");
    write_layout(&layout, &[("v1", &one), ("ghcr.io/x/app:v2", &two)]);
    let archive = directory.path().join("layout.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    tar.append_dir_all(".", &layout).unwrap();
    tar.into_inner().unwrap();
    for place in [
        format!("oci:{}", layout.display()),
        format!("oci-archive:{}", archive.display()),
    ] {
        assert_is(&format!("{place}:v1"), &one).await;
        assert_is(&format!("{place}:ghcr.io/x/app:v2"), &two).await;
        let missing = resolve(&format!("{place}:v3")).await.unwrap_err();
        assert!(matches!(missing, OciError::NotFound(_)), "{missing}");
        let ambiguous = resolve(&place).await.unwrap_err();
        assert!(
            ambiguous.to_string().contains("v1, ghcr.io/x/app:v2"),
            "{ambiguous}"
        );
    }
}

#[tokio::test]
async fn a_single_image_needs_no_tag() {
    let directory = tempfile::tempdir().unwrap();
    let image = TestImage::new("linux/amd64", &[10]);
    write_layout(directory.path(), &[("", &image)]);
    assert_is(&format!("oci:{}", directory.path().display()), &image).await;
}

#[tokio::test]
async fn a_damaged_layout_serves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let place = format!("oci:{}", directory.path().display());
    let image = TestImage::new("linux/amd64", &[1000]);
    write_layout(directory.path(), &[("v1", &image)]);
    let blobs = directory.path().join("blobs/sha256");
    let layer = blobs.join(OciDigest::of(&image.layers[0]).hex());
    std::fs::write(&layer, vec![0; 1000]).unwrap();
    let (source, resolved) = resolve(&place).await.unwrap();
    let read = source
        .open_blob(&resolved.layers[0])
        .await
        .unwrap()
        .try_collect::<Vec<_>>()
        .await;
    assert!(matches!(read, Err(OciError::Corrupt { .. })), "{read:?}");
    std::fs::write(&layer, vec![0; 999]).unwrap();
    let read = source
        .open_blob(&resolved.layers[0])
        .await
        .unwrap()
        .try_collect::<Vec<_>>()
        .await;
    assert!(
        matches!(read, Err(OciError::Size { longer: false, .. })),
        "{read:?}"
    );
    std::fs::write(blobs.join(OciDigest::of(&image.manifest).hex()), "{}").unwrap();
    assert!(matches!(
        resolve(&place).await,
        Err(OciError::Corrupt { .. })
    ));
    std::fs::write(
        directory.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"9"}"#,
    )
    .unwrap();
    assert!(matches!(
        resolve(&place).await,
        Err(OciError::Unsupported(_))
    ));
    std::fs::remove_file(directory.path().join("oci-layout")).unwrap();
    assert!(matches!(resolve(&place).await, Err(OciError::NotFound(_))));
}

#[tokio::test]
async fn a_plain_directory_is_no_image_source() {
    let source = "dir:/srv/rootfs".parse().unwrap();
    let opened = open(&source, &RegistryOptions::default()).await;
    assert!(matches!(opened, Err(OciError::Unsupported(_))));
}

#[tokio::test]
async fn what_skopeo_copies_is_understood() {
    if std::process::Command::new("skopeo")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("skopeo is not installed: nothing to compare with");
        return;
    }
    let server = FakeRegistry::start(Faults::default()).await;
    let image = TestImage::new("linux/amd64", &[100_000, 10]);
    server.put_image("v1", &image);
    let directory = tempfile::tempdir().unwrap();
    let from = format!("docker://{}/app:v1", server.address());
    for kind in ["oci", "oci-archive", "docker-archive"] {
        let to = format!("{kind}:{}:app:v1", directory.path().join(kind).display());
        let copied = tokio::process::Command::new("skopeo")
            .args([
                "copy",
                "--src-tls-verify=false",
                "--insecure-policy",
                "--override-os=linux",
            ])
            .args(["--override-arch=amd64", &from, &to])
            .output()
            .await
            .unwrap();
        assert!(
            copied.status.success(),
            "{}",
            String::from_utf8_lossy(&copied.stderr)
        );
        let (source, resolved) = resolve(&to).await.unwrap();
        assert_eq!(
            resolved.config_digest,
            OciDigest::of(&image.config),
            "{kind}"
        );
        for (layer, expected) in resolved.layers.iter().zip(&image.layers) {
            assert_eq!(layer.diff_id, OciDigest::of(expected));
            source
                .open_blob(layer)
                .await
                .unwrap()
                .try_collect::<Vec<_>>()
                .await
                .unwrap();
        }
    }
}
