use std::io::Write;

use super::*;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

fn decompress_within(
    blob: Vec<u8>,
    declared: Option<Compression>,
    limits: &LayerLimits,
) -> Result<Vec<u8>, Fault> {
    let mut plain = Vec::new();
    Decompressor::open(Cursor::new(blob), declared, limits)?.read_to_end(&mut plain)?;
    Ok(plain)
}

fn decompress(blob: &[u8]) -> Result<Vec<u8>, Fault> {
    decompress_within(blob.to_vec(), None, &LayerLimits::default())
}

fn sample() -> Vec<u8> {
    (0..200_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

#[test]
fn media_types_of_layers_are_known() {
    for (media_type, expected) in [
        (
            "application/vnd.oci.image.layer.v1.tar",
            Some(Compression::None),
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            Some(Compression::Zstd),
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar",
            Some(Compression::None),
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            Some(Compression::Zstd),
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            None,
        ),
        ("application/vnd.oci.image.config.v1+json", None),
        ("", None),
    ] {
        assert_eq!(
            Compression::of_media_type(media_type),
            expected,
            "{media_type}"
        );
    }
}

#[test]
fn members_and_frames_follow_each_other() {
    let data = sample();
    let (left, right) = data.split_at(300_001);
    assert!(decompress(&data).unwrap() == data);
    assert!(decompress(&[gzip(left), gzip(b""), gzip(right)].concat()).unwrap() == data);
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
    let (left, right) = (zstd(left), zstd(right));
    let frames = [&skippable[..], &left, &skippable, &right, &skippable].concat();
    assert!(decompress(&frames).unwrap() == data);
    assert_eq!(decompress(b"").unwrap(), b"");
}

#[test]
fn zeros_may_follow_gzip_but_nothing_else() {
    let data = sample();
    let padded = [gzip(&data), vec![0; 600_000]].concat();
    assert!(decompress(&padded).unwrap() == data);
    for rest in [&b"junk"[..], b"\0\0\0junk", &[0x1f, 0x8b]] {
        let result = decompress(&[&gzip(b"data"), rest].concat());
        assert!(
            matches!(result, Err(Fault::Malformed(_))),
            "{rest:?}: {result:?}"
        );
    }
}

#[test]
fn truncated_and_damaged_streams_are_malformed() {
    let data = &sample()[..5_000];
    for blob in [gzip(data), zstd(data)] {
        for len in (4..blob.len())
            .step_by(97)
            .chain(blob.len() - 9..blob.len())
        {
            let result = decompress(&blob[..len]);
            assert!(
                matches!(result, Err(Fault::Malformed(_))),
                "{len}: {result:?}"
            );
        }
    }
    let mut damaged = gzip(data);
    let crc = damaged.len() - 8;
    damaged[crc] ^= 1;
    assert!(matches!(decompress(&damaged), Err(Fault::Malformed(_))));
}

#[test]
fn the_magic_decides_but_for_plain_tar() {
    let with =
        |blob: Vec<u8>, declared| decompress_within(blob, Some(declared), &LayerLimits::default());
    assert_eq!(with(zstd(b"x"), Compression::Gzip).unwrap(), b"x");
    assert_eq!(with(gzip(b"x"), Compression::Zstd).unwrap(), b"x");
    assert_eq!(with(b"x".to_vec(), Compression::Gzip).unwrap(), b"x");
    for (blob, declared) in [
        (gzip(b"x"), Compression::None),
        (zstd(b"x"), Compression::None),
        (Vec::new(), Compression::Gzip),
        (Vec::new(), Compression::Zstd),
    ] {
        assert!(
            matches!(with(blob, declared), Err(Fault::Malformed(_))),
            "{declared:?}"
        );
    }
}

#[test]
fn windows_beyond_the_limit_are_refused() {
    let blob = |window_log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(b"data").unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(decompress(&blob(ZSTD_WINDOW_LOG_MAX)).unwrap(), b"data");
    let result = decompress(&blob(ZSTD_WINDOW_LOG_MAX + 1));
    assert!(matches!(result, Err(Fault::Malformed(_))), "{result:?}");
}

#[test]
fn bombs_are_stopped_and_real_zeros_are_not() {
    let zeros = vec![0; 8 << 20];
    let limits = LayerLimits {
        expansion_free_bytes: 1 << 20,
        plain_bytes_max: 16 << 20,
        ..LayerLimits::default()
    };
    assert_eq!(
        decompress_within(gzip(&zeros), None, &limits)
            .unwrap()
            .len(),
        zeros.len()
    );
    let result = decompress_within(zstd(&zeros), None, &limits);
    assert!(
        matches!(result, Err(Fault::Limit { max: 2_000, .. })),
        "{result:?}"
    );
    assert!(decompress_within(zstd(&zeros[..1 << 20]), None, &limits).is_ok());
    let three = gzip(&zeros).repeat(3);
    let result = decompress_within(three, None, &limits);
    assert!(
        matches!(
            result,
            Err(Fault::Limit {
                what: "plain bytes",
                ..
            })
        ),
        "{result:?}"
    );
}

/// Fails in the way that a truncated gzip stream does.
struct Broken(Cursor<Vec<u8>>);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => Ok(len),
        }
    }
}

#[test]
fn an_error_of_the_input_is_not_blamed_on_the_stream() {
    let data = sample();
    for mut blob in [gzip(&data), zstd(&data), data] {
        blob.truncate(blob.len() / 2);
        let broken = Broken(Cursor::new(blob));
        let mut reader = Decompressor::open(broken, None, &LayerLimits::default()).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(Fault::from(error), Fault::Io(_)));
    }
}
