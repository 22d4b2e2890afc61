use proptest::prelude::*;

use super::*;

const SESSION: u64 = 0x0123_4567_89ab_cdef;

fn origins() -> Vec<(u64, Origin)> {
    let id = |text: &str| Digest::of(text.as_bytes());
    vec![
        (2000, Origin::Root(Flavor::Plain, TreeId::new(id("a")))),
        (2001, Origin::Root(Flavor::Lower, TreeId::new(id("b")))),
        (
            u64::MAX,
            Origin::Entry {
                parent_ino: 2000,
                index: u32::MAX,
            },
        ),
        (
            2003,
            Origin::Link {
                root_ino: 2001,
                group: [7; 16],
                flavor: Flavor::Lower,
                tree: TreeId::new(id("c")),
                index: 3,
            },
        ),
        (
            2004,
            Origin::Content {
                content: ContentId::new(id("d")),
                size_bytes: 1 << 40,
            },
        ),
    ]
}

fn known(pairs: &[(u64, Origin)]) -> HashMap<u64, Origin> {
    pairs.iter().copied().collect()
}

#[test]
fn what_was_written_is_read_as_far_as_it_is_whole() {
    let origins = origins();
    let bytes = encode(SESSION, origins.iter().copied());
    let empty = encode(SESSION, std::iter::empty()).len();
    let restored = decode(&bytes, SESSION).unwrap();
    assert_eq!((restored.inodes, restored.torn_bytes), (known(&origins), 0));
    let mut whole = 0;
    for len in empty..bytes.len() {
        let restored = decode(&bytes[..len], SESSION).unwrap();
        assert!(restored.inodes.len() >= whole && restored.inodes.len() < origins.len());
        whole = restored.inodes.len();
        assert_eq!(restored.inodes, known(&origins[..whole]));
    }
    assert_eq!(whole, origins.len() - 1);
    for len in 0..empty {
        assert_eq!(decode(&bytes[..len], SESSION), None);
    }
    assert_eq!(decode(&bytes, SESSION + 1), None);
}

#[test]
fn a_flipped_bit_ends_the_log_before_it() {
    let origins = origins();
    let bytes = encode(SESSION, origins.iter().copied());
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let restored = decode(&flipped, SESSION).unwrap_or_default();
        assert!(restored.inodes.len() < origins.len(), "byte {at}");
        for (ino, origin) in restored.inodes {
            assert!(origins.contains(&(ino, origin)), "byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let log = [header(SESSION), bytes].concat();
        let restored = decode(&log, SESSION).unwrap();
        // Four bytes of a hash do not come about by chance.
        prop_assert_eq!(restored.inodes.len(), 0);
        prop_assert_eq!(restored.torn_bytes, log.len() - header(SESSION).len());
    }
}

/// Adds or takes away an inode and notes it.
fn change(log: &mut InodeLog, inodes: &mut HashMap<u64, Origin>, change: Change) {
    match change {
        Change::Known(ino, origin) => drop(inodes.insert(ino, origin)),
        Change::Forgotten(ino) => drop(inodes.remove(&ino)),
    }
    let len = inodes.len();
    log.note(&change, len, || inodes.iter().map(|(ino, o)| (*ino, *o)));
}

#[test]
fn a_log_is_gone_on_with_by_its_own_session_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inodes.log");
    let (origins, mut inodes) = (origins(), HashMap::new());
    let mut log = InodeLog::create(&path, SESSION).unwrap();
    for (ino, origin) in &origins {
        change(&mut log, &mut inodes, Change::Known(*ino, *origin));
    }
    change(&mut log, &mut inodes, Change::Forgotten(2003));
    drop(log);
    let foreign = InodeLog::resume(&path, SESSION + 1);
    assert!(matches!(foreign, Err(InodeLogError::Foreign(_))));
    // A process that died in the middle of a record.
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend([2, 9, 9, 9]);
    std::fs::write(&path, torn).unwrap();
    for torn_bytes in [4, 0] {
        let (_, restored) = InodeLog::resume(&path, SESSION).unwrap();
        assert_eq!(restored.inodes, inodes);
        assert_eq!(restored.torn_bytes, torn_bytes);
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        InodeLog::resume(&path, SESSION),
        Err(InodeLogError::Io { .. })
    ));
}

#[test]
fn a_log_stays_in_proportion_to_what_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inodes.log");
    let mut inodes = HashMap::new();
    let mut log = InodeLog::create(&path, SESSION).unwrap();
    let origin = origins()[2].1;
    for ino in 0..100_000 {
        change(&mut log, &mut inodes, Change::Known(ino, origin));
        if ino >= 10 {
            change(&mut log, &mut inodes, Change::Forgotten(ino - 10));
        }
        assert!(log.records <= SPARE_RECORDS + 3 * 12);
    }
    drop(log);
    let (log, restored) = InodeLog::resume(&path, SESSION).unwrap();
    assert_eq!((restored.inodes, log.records), (inodes, 10));
}

#[test]
fn a_log_is_whole_again_once_it_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inodes.log");
    let mut inodes = HashMap::new();
    let mut log = InodeLog::create(&path, SESSION).unwrap();
    log.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let origin = origins()[2].1;
    for ino in 0..=RETRY_AFTER as u64 {
        assert_eq!(
            decode(&std::fs::read(&path).unwrap(), SESSION)
                .unwrap()
                .inodes
                .len(),
            0
        );
        change(&mut log, &mut inodes, Change::Known(ino, origin));
    }
    assert_eq!(
        decode(&std::fs::read(&path).unwrap(), SESSION)
            .unwrap()
            .inodes,
        inodes
    );
}
