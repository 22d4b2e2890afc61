use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nacre_blobstore::testing::TokioClock;
use nacre_blobstore::{Digest, SystemClock};
use tempfile::TempDir;

use super::*;
use crate::server::block::Block;

const BLOCK: u32 = 2 * UNIT_BYTES;

fn open(folder: &Path, slots: u32) -> Result<(Arc<Disk>, Writer), DiskError> {
    let bytes = u64::from(slots) * u64::from(BLOCK);
    let disk = Disk::open(
        folder,
        bytes,
        BLOCK,
        Arc::new(SystemClock::new()),
        |_, _| {},
    )?;
    let disk = Arc::new(disk);
    let writer = Writer::start(Arc::clone(&disk)).unwrap();
    Ok((disk, writer))
}

fn id(number: u32) -> BlockId {
    BlockId {
        object: Digest::of(b"object"),
        number,
    }
}

/// The bytes of a block: each differs from those of all others.
fn body(number: u32, len: u32) -> Bytes {
    (0..len)
        .map(|at| u8::try_from((at / 7 + number * 13) % 251).unwrap())
        .collect()
}

fn block(number: u32) -> Block {
    Block {
        bytes: body(number, BLOCK),
        object_bytes: 1000 * u64::from(BLOCK),
    }
}

async fn write(writer: &Writer, number: u32) {
    let stored = writer.write(id(number), block(number), false).await;
    assert_eq!(stored, Stored::Yes);
}

/// Reads a part of a block; `None` when it is not there or bad.
async fn read(disk: &Arc<Disk>, number: u32, within: Range<u32>) -> Option<Vec<u8>> {
    let slot = disk.get(&id(number))?;
    let (bytes, start) = disk.read(&slot, &within).await.ok()?;
    let (from, to) = (
        (within.start - start) as usize,
        (within.end - start) as usize,
    );
    Some(bytes.as_ref()[from..to].to_vec())
}

/// Flips a bit in the file of the blocks.
fn flip(folder: &Path, at: u64) {
    let path = folder.join("blocks");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}

fn counted(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn blocks_are_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    {
        let (_disk, writer) = open(folder.path(), 8).unwrap();
        for number in 0..5 {
            write(&writer, number).await;
        }
        let last = Block {
            bytes: body(5, 100),
            object_bytes: 5 * u64::from(BLOCK) + 100,
        };
        assert_eq!(writer.write(id(5), last, false).await, Stored::Yes);
    }
    let mut found = Vec::new();
    let bytes = 8 * u64::from(BLOCK);
    let clock = Arc::new(SystemClock::new());
    let disk = Disk::open(folder.path(), bytes, BLOCK, clock, |id, len| {
        found.push((id.number, len));
    });
    let disk = Arc::new(disk.unwrap());
    assert_eq!(found.len(), 6);
    assert_eq!(found[5], (5, 5 * u64::from(BLOCK) + 100));
    for number in 0..5 {
        assert_eq!(
            read(&disk, number, 0..BLOCK).await.unwrap(),
            body(number, BLOCK)
        );
        let across = UNIT_BYTES - 3..UNIT_BYTES + 5;
        let expected = &body(number, BLOCK)[UNIT_BYTES as usize - 3..UNIT_BYTES as usize + 5];
        assert_eq!(read(&disk, number, across).await.unwrap(), expected);
    }
    assert_eq!(read(&disk, 5, 0..100).await.unwrap(), body(5, 100));
}

#[tokio::test]
async fn a_flipped_bit_is_found_in_its_unit_and_drops_the_block() {
    let folder = TempDir::new().unwrap();
    let (disk, writer) = open(folder.path(), 4).unwrap();
    write(&writer, 0).await;
    flip(folder.path(), u64::from(UNIT_BYTES) + 77);
    // The other unit is as it was.
    assert!(read(&disk, 0, 0..10).await.is_some());
    assert_eq!(read(&disk, 0, UNIT_BYTES..UNIT_BYTES + 1).await, None);
    assert_eq!(counted(&disk.counters.corrupt), 1);
    assert!(disk.peek(&id(0)).is_none());
    drop((disk, writer));
    let (disk, _writer) = open(folder.path(), 4).unwrap();
    assert_eq!(disk.len().0, 0, "it does not come back");
}

#[tokio::test]
async fn files_that_were_cut_off_cost_what_was_lost() {
    for (name, len) in [
        ("blocks", BLOCK / 2),
        ("blocks", BLOCK / 2 + 5000),
        ("blocks", 0),
        ("table", 5000),
        ("table", 0),
    ] {
        let folder = TempDir::new().unwrap();
        let (disk, writer) = open(folder.path(), 4).unwrap();
        for number in 0..3 {
            write(&writer, number).await;
        }
        let file = File::options().write(true).open(folder.path().join(name));
        file.unwrap().set_len(len.into()).unwrap();
        let check = async |disk: Arc<Disk>| {
            for number in 0..3 {
                if let Some(bytes) = read(&disk, number, 0..BLOCK).await {
                    assert_eq!(bytes, body(number, BLOCK));
                }
            }
        };
        check(disk).await;
        drop(writer);
        let (disk, writer) = open(folder.path(), 4).unwrap();
        check(Arc::clone(&disk)).await;
        write(&writer, 9).await;
        assert_eq!(read(&disk, 9, 0..BLOCK).await.unwrap(), body(9, BLOCK));
    }
}

#[tokio::test]
async fn a_slot_is_not_used_again_while_it_is_read() {
    let folder = TempDir::new().unwrap();
    let (disk, writer) = open(folder.path(), 2).unwrap();
    write(&writer, 0).await;
    write(&writer, 1).await;
    let held = disk.get(&id(0)).unwrap();
    for number in 2..10 {
        let _either = writer.write(id(number), block(number), false).await;
    }
    let (bytes, _) = disk.read(&held, &(0..BLOCK)).await.unwrap();
    assert_eq!(bytes.as_ref(), body(0, BLOCK));
    assert_eq!(counted(&disk.counters.corrupt), 0);
    assert!(counted(&disk.counters.evictions) > 0);
    drop(held);
    write(&writer, 20).await;
    write(&writer, 21).await;
    assert_eq!(disk.len().0, 2);
}

#[tokio::test]
async fn a_read_waits_for_its_turn() {
    let folder = TempDir::new().unwrap();
    let (disk, writer) = open(folder.path(), 2).unwrap();
    write(&writer, 0).await;
    let slot = disk.get(&id(0)).unwrap();
    let hanging = disk.hang().await;
    let whole = 0..BLOCK;
    let mut reading = std::pin::pin!(disk.read(&slot, &whole));
    assert!(futures::poll!(&mut reading).is_pending());
    assert_eq!(disk.reads.available_permits(), 0);
    drop(hanging);
    assert_eq!(reading.await.unwrap().0.as_ref(), body(0, BLOCK));
    assert_eq!(disk.reads.available_permits(), reads_max());
}

/// A disk that fails, as far as a test can have one: file descriptors that refuse what is asked.
#[tokio::test]
async fn a_disk_that_fails_is_counted_and_not_used_there_again() {
    let folder = TempDir::new().unwrap();
    let (disk, writer) = open(folder.path(), 4).unwrap();
    write(&writer, 0).await;
    write(&writer, 1).await;
    drop((disk, writer));
    let bytes = 4 * u64::from(BLOCK);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let open_with = |options: &mut std::fs::OpenOptions| {
        let mut disk =
            Disk::open(folder.path(), bytes, BLOCK, Arc::clone(&clock), |_, _| {}).unwrap();
        disk.blocks = options.open(folder.path().join("blocks")).unwrap();
        disk.direct = disk.blocks.try_clone().unwrap();
        Arc::new(disk)
    };
    let unwritable = open_with(File::options().read(true));
    let writer = Writer::start(Arc::clone(&unwritable)).unwrap();
    assert_eq!(writer.write(id(2), block(2), false).await, Stored::No);
    assert_eq!(
        read(&unwritable, 0, 0..BLOCK).await.unwrap(),
        body(0, BLOCK)
    );
    assert_eq!(counted(&unwritable.counters.errors), 1);
    assert_eq!(
        (unwritable.len(), counted(&unwritable.counters.unstored)),
        ((2, 1), 1)
    );
    drop((unwritable, writer));
    let unreadable = open_with(File::options().write(true));
    let slot = unreadable.get(&id(0)).unwrap();
    let failed = unreadable.read(&slot, &(0..BLOCK)).await;
    assert!(matches!(failed, Err(BlockError::Io(_))), "{failed:?}");
    drop(slot);
    assert_eq!(counted(&unreadable.counters.errors), 1);
    assert_eq!(
        unreadable.len(),
        (1, 1),
        "the slot is not trusted again at once"
    );
}

#[tokio::test]
async fn one_process_uses_a_folder() {
    let folder = TempDir::new().unwrap();
    let held = open(folder.path(), 2).unwrap();
    assert!(matches!(open(folder.path(), 2), Err(DiskError::Busy(_))));
    drop(held);
    open(folder.path(), 2).unwrap();
}

#[tokio::test]
async fn blocks_of_another_length_are_forgotten() {
    let folder = TempDir::new().unwrap();
    let (disk, writer) = open(folder.path(), 4).unwrap();
    write(&writer, 0).await;
    drop((disk, writer));
    let bytes = 8 * u64::from(BLOCK);
    let clock = Arc::new(SystemClock::new());
    let disk = Disk::open(folder.path(), bytes, 2 * BLOCK, clock, |_, _| {}).unwrap();
    assert_eq!(disk.len().0, 0);
}

#[tokio::test]
async fn a_smaller_tier_keeps_what_fits() {
    let folder = TempDir::new().unwrap();
    let (disk, writer) = open(folder.path(), 8).unwrap();
    for number in 0..8 {
        write(&writer, number).await;
    }
    drop((disk, writer));
    let (disk, writer) = open(folder.path(), 3).unwrap();
    assert_eq!(disk.len().0, 3);
    for number in 0..3 {
        assert_eq!(
            read(&disk, number, 0..BLOCK).await.unwrap(),
            body(number, BLOCK)
        );
    }
    drop((disk, writer));
    let (disk, _writer) = open(folder.path(), 8).unwrap();
    assert_eq!(disk.len().0, 3, "what was cut off is not there");
}

#[tokio::test(start_paused = true)]
async fn slots_that_cannot_be_written_are_tried_again_later() {
    let slots = Slots::new(
        2,
        [(0, None), (1, None)].into_iter(),
        Arc::new(TokioClock::new()),
    );
    let (first, second) = (slots.take(|| {}).unwrap(), slots.take(|| {}).unwrap());
    assert_eq!((first, second), (0, 1));
    slots.give_back_bad(first);
    slots.give_back_bad(second);
    assert_eq!((slots.take(|| {}), slots.bad()), (None, 2));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(slots.take(|| {}).is_some());
    assert_eq!((slots.take(|| {}), slots.bad()), (None, 1), "one at a time");
}
