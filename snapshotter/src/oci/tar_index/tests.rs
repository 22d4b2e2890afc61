use std::io::Write as _;

use super::*;

/// Appends a member with a sound header.
fn member(tar: &mut Vec<u8>, kind: EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

async fn index(tar: &[u8]) -> Result<TarIndex, OciError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(tar).unwrap();
    TarIndex::read(FileRange::open(file.path().to_owned()).await.unwrap())
}

fn content(index: &TarIndex, name: &str) -> Vec<u8> {
    index
        .find(name)
        .unwrap()
        .read_all(name, 1 << 20)
        .unwrap()
        .to_vec()
}

#[tokio::test]
async fn members_are_found_through_links() {
    let mut tar = Vec::new();
    member(&mut tar, EntryType::Directory, "a/", "", b"");
    member(&mut tar, EntryType::Regular, "./a/layer.tar", "", b"first");
    member(
        &mut tar,
        EntryType::Symlink,
        "b/layer.tar",
        "../a/layer.tar",
        b"",
    );
    member(
        &mut tar,
        EntryType::Symlink,
        "c/layer.tar",
        "/b/layer.tar",
        b"",
    );
    member(&mut tar, EntryType::Link, "d", "a/layer.tar", b"");
    member(
        &mut tar,
        EntryType::Symlink,
        "out",
        "../../../a/layer.tar",
        b"",
    );
    member(&mut tar, EntryType::Regular, "twice", "", b"old");
    member(&mut tar, EntryType::Regular, "twice", "", b"new");
    tar.resize(tar.len() + 1024, 0);
    let index = index(&tar).await.unwrap();
    for name in [
        "a/layer.tar",
        "b/layer.tar",
        "c/layer.tar",
        "d",
        "out",
        "./b//layer.tar",
    ] {
        assert_eq!(content(&index, name), b"first", "{name}");
    }
    assert_eq!(content(&index, "twice"), b"new");
    assert!(matches!(index.find("a"), Err(OciError::NotFound(_))));
}

#[tokio::test]
async fn long_names_and_sizes_come_from_extensions() {
    let long = format!("{}/layer.tar", "d".repeat(200));
    let mut tar = Vec::new();
    member(
        &mut tar,
        EntryType::GNULongName,
        "x",
        "",
        format!("{long}\0").as_bytes(),
    );
    member(&mut tar, EntryType::Regular, "cut", "", b"gnu");
    member(
        &mut tar,
        EntryType::XHeader,
        "x",
        "",
        b"12 path=pax\n9 size=4\n",
    );
    // The header itself says nothing of the size, as for layers over 8 GiB.
    member(&mut tar, EntryType::Regular, "cut", "", b"");
    tar.extend_from_slice(b"four");
    tar.resize(tar.len().next_multiple_of(512), 0);
    member(&mut tar, EntryType::Regular, "after", "", b"next");
    let index = index(&tar).await.unwrap();
    assert_eq!(content(&index, &long), b"gnu");
    assert_eq!(content(&index, "pax"), b"four");
    assert_eq!(content(&index, "after"), b"next");
}

#[tokio::test]
async fn hostile_archives_are_refused() {
    let mut sound = Vec::new();
    member(&mut sound, EntryType::Regular, "a", "", &[7; 600]);
    let mut flipped = sound.clone();
    flipped[0] ^= 1;
    let mut huge_name = Vec::new();
    let name = vec![b'a'; usize::try_from(EXTENSION_BYTES_MAX).unwrap() + 1];
    member(&mut huge_name, EntryType::GNULongName, "x", "", &name);
    let mut huge_size = Vec::new();
    let pax = b"29 size=18446744073709551615\n";
    member(&mut huge_size, EntryType::XHeader, "x", "", pax);
    member(&mut huge_size, EntryType::Regular, "a", "", b"");
    let mut sparse = Vec::new();
    member(&mut sparse, EntryType::GNUSparse, "a", "", b"");
    for (tar, case) in [
        (&sound[..700], "cut off in the data"),
        (&[&sound[..], &[1; 100]].concat(), "cut off in a header"),
        (&flipped, "checksum"),
        (&huge_name, "long name"),
        (&huge_size, "size past the end"),
        (&sparse, "sparse"),
        (b"not a tar", "short"),
        (&[&[0x1f, 0x8b][..], &[0; 600]].concat(), "gzip"),
    ] {
        assert!(index(tar).await.is_err(), "{case}");
    }
}

#[tokio::test]
async fn circular_links_end() {
    let mut tar = Vec::new();
    member(&mut tar, EntryType::Symlink, "a", "b", b"");
    member(&mut tar, EntryType::Symlink, "b", "a", b"");
    let index = index(&tar).await.unwrap();
    assert!(matches!(index.find("a"), Err(OciError::Malformed { .. })));
}
