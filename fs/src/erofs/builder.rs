//! Images from directories given one at a time.

use std::collections::HashMap;

use nacre_blobstore::Attributes;

use super::directory::{Spread, nid_offset, with_dots, write_block, write_nid};
use super::entry::{ImageEntry, ImageInode, check_attributes};
use super::format::{
    BLOCK_BYTES, CHUNK_FORMAT, FileType, HOLE, INODE_BYTES, Inode, Layout, encode_device,
};
use super::paths::{PathIndex, Paths};
use super::space::{Place, Space};
use super::xattr::{METACOPY, OPAQUE, REDIRECT, XattrBody, redirect};
use super::{ErofsError, Reason};

/// Most names in an image, `.` and `..` not counted.
pub const ENTRIES_MAX: usize = 2 << 20;
/// Most directories on the way from the root to an entry: no path of 4,096 bytes goes deeper.
pub const DIRECTORY_DEPTH_MAX: u32 = 2048;

/// Writes an image directory by directory, parents before children, into memory.
///
/// Equal calls in an equal order make equal images. After an error the image is of no use.
#[derive(Debug)]
pub struct ImageBuilder {
    uuid: [u8; 16],
    root_nid: u16,
    space: Space,
    links: HashMap<[u8; 16], Link>,
    paths: Paths,
    /// The attributes of the inode at hand.
    xattrs: XattrBody,
    entries: usize,
    unwritten: usize,
}

/// A directory that an image has, but whose entries are yet to be written, by
/// [`ImageBuilder::write_directory`].
#[derive(Debug)]
#[must_use]
pub struct UnwrittenDirectory {
    attributes: Attributes,
    opaque: bool,
    path: PathIndex,
    depth: u32,
    /// Of any directory but the root.
    parent: Option<Parent>,
}

#[derive(Debug)]
struct Parent {
    nid: u64,
    /// Where the directory's own number is to be written.
    reference: Place,
}

/// The inode of a hard-link group.
#[derive(Debug)]
struct Link {
    nid: u64,
    names: u32,
    fingerprint: u64,
}

/// A directory's inode and where its names go.
#[derive(Debug)]
struct Opened {
    nid: u64,
    blocks: Place,
    tail: Place,
    /// The block that stands at `tail`.
    inline_block: Option<usize>,
}

impl Opened {
    fn block(&self, index: usize) -> Place {
        if self.inline_block == Some(index) {
            self.tail
        } else {
            self.blocks.plus(index * BLOCK_BYTES)
        }
    }
}

impl ImageBuilder {
    /// Begins an image whose UUID is made of `seed`, in which file systems that are mounted
    /// together should differ. Also returns its root.
    pub fn new(seed: [u8; 16], root: &Attributes) -> (Self, UnwrittenDirectory) {
        let mut uuid = seed;
        // Version 8, "custom", and the variant of RFC 9562.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let builder = Self {
            uuid,
            root_nid: 0,
            space: Space::new(),
            links: HashMap::new(),
            paths: Paths::new(),
            xattrs: XattrBody::default(),
            entries: 0,
            unwritten: 1,
        };
        let root = UnwrittenDirectory {
            attributes: root.clone(),
            opaque: false,
            path: Paths::ROOT,
            depth: 0,
            parent: None,
        };
        (builder, root)
    }

    /// Writes a directory and those of its `entries` that are none themselves; returns its
    /// subdirectories in the order of the entries.
    ///
    /// # Errors
    /// [`ErofsError::Unrepresentable`] for entries that are not unique and sorted by name, for
    /// what no file system can hold, and beyond the limits of this module.
    #[expect(clippy::needless_pass_by_value, reason = "a directory is written once")]
    pub fn write_directory(
        &mut self,
        directory: UnwrittenDirectory,
        entries: &[ImageEntry<'_>],
    ) -> Result<Vec<UnwrittenDirectory>, ErofsError> {
        let mut refused = &b""[..];
        self.write(&directory, entries, &mut refused)
            .map_err(|reason| ErofsError::Unrepresentable {
                path: self.paths.path(directory.path, refused),
                reason,
            })
    }

    /// Returns the image.
    ///
    /// # Panics
    /// When a directory is left unwritten.
    pub fn finish(self) -> Vec<u8> {
        assert_eq!(self.unwritten, 0, "every directory is to be written");
        self.space.finish(self.uuid, self.root_nid)
    }

    /// Leaves in `refused` the name of the entry at hand.
    fn write<'a>(
        &mut self,
        directory: &UnwrittenDirectory,
        entries: &'a [ImageEntry<'a>],
        refused: &mut &'a [u8],
    ) -> Result<Vec<UnwrittenDirectory>, Reason> {
        self.entries = self.entries.saturating_add(entries.len());
        if self.entries > ENTRIES_MAX {
            return Err("more entries than ENTRIES_MAX");
        }
        let mut name_before = &b""[..];
        for entry in entries {
            *refused = entry.name;
            entry.check(name_before)?;
            name_before = entry.name;
        }
        *refused = b"";
        let mut dirents = with_dots(entries);
        let spread = Spread::of(&dirents);
        let subdirectories = entries.iter().filter(|entry| entry.is_directory()).count();
        let opened = self.open(directory, &spread, subdirectories)?;
        for dirent in &mut dirents {
            dirent.nid = match dirent.entry {
                Some(entry) => {
                    *refused = entry.name;
                    self.add_leaf(entry)?
                }
                None if dirent.name == b"." => opened.nid,
                None => directory.parent.as_ref().map_or(opened.nid, |p| p.nid),
            };
        }
        let mut promised = Vec::with_capacity(subdirectories);
        for (block, names) in spread.blocks.iter().enumerate() {
            let (dirents, place) = (&dirents[names.clone()], opened.block(block));
            write_block(dirents, self.space.at(place));
            for (i, dirent) in dirents.iter().enumerate() {
                if let Some(entry) = dirent.entry.filter(|entry| entry.is_directory()) {
                    *refused = entry.name;
                    let reference = place.plus(nid_offset(i));
                    let nid = opened.nid;
                    promised.push(self.promise(directory, entry, Parent { nid, reference })?);
                }
            }
        }
        self.unwritten -= 1;
        Ok(promised)
    }

    /// Adds the inode of a directory and room for its names, and tells the parent its number.
    fn open(
        &mut self,
        directory: &UnwrittenDirectory,
        spread: &Spread,
        subdirectories: usize,
    ) -> Result<Opened, Reason> {
        check_attributes(&directory.attributes)?;
        if directory.parent.is_some() {
            self.space.fulfil(promised_bytes(&directory.attributes));
        }
        let own: &[(&[u8], &[u8])] = if directory.opaque {
            &[(OPAQUE, b"y")]
        } else {
            &[]
        };
        self.xattrs.fill(own, &directory.attributes)?;
        let is_inline = Space::is_inline(&self.xattrs, spread.tail_bytes);
        let (layout, tail_bytes) = if is_inline {
            (Layout::Inline, spread.tail_bytes)
        } else {
            (Layout::Plain, 0)
        };
        let whole_blocks = spread.blocks.len() - usize::from(is_inline);
        let (union, blocks) = self.space.add_blocks(whole_blocks)?;
        let nlink = u32::try_from(subdirectories + 2).expect("fewer than ENTRIES_MAX");
        let inode = Inode {
            file_type: FileType::Directory,
            layout,
            attributes: &directory.attributes,
            size_bytes: spread.size_bytes(),
            union,
            nlink,
        };
        let (nid, tail) = self.space.add_inode(&inode, &self.xattrs, tail_bytes)?;
        match &directory.parent {
            Some(parent) => write_nid(self.space.at(parent.reference), nid),
            None => self.root_nid = u16::try_from(nid).expect("the root is the first inode"),
        }
        Ok(Opened {
            nid,
            blocks,
            tail,
            inline_block: is_inline.then_some(whole_blocks),
        })
    }

    /// Makes the handle of a subdirectory.
    fn promise(
        &mut self,
        directory: &UnwrittenDirectory,
        entry: &ImageEntry<'_>,
        parent: Parent,
    ) -> Result<UnwrittenDirectory, Reason> {
        let depth = directory.depth + 1;
        if depth > DIRECTORY_DEPTH_MAX {
            return Err("a directory deeper than DIRECTORY_DEPTH_MAX");
        }
        self.space.promise(promised_bytes(entry.attributes))?;
        self.unwritten += 1;
        Ok(UnwrittenDirectory {
            attributes: entry.attributes.clone(),
            opaque: entry.inode == ImageInode::Directory { opaque: true },
            path: self.paths.add(directory.path, entry.name),
            depth,
            parent: Some(parent),
        })
    }

    /// Returns the number of an entry's inode: added now, or that of its group. A directory's is
    /// not known yet.
    fn add_leaf(&mut self, entry: &ImageEntry<'_>) -> Result<u64, Reason> {
        if entry.is_directory() {
            return Ok(0);
        }
        let Some(group) = entry.hard_link else {
            return self.add_leaf_inode(entry);
        };
        let fingerprint = entry.fingerprint();
        if let Some(link) = self.links.get_mut(&group) {
            if link.fingerprint != fingerprint {
                return Err("names of one hard-link group differ in attributes or kind");
            }
            link.names += 1;
            self.space.set_nlink(link.nid, link.names);
            return Ok(link.nid);
        }
        let nid = self.add_leaf_inode(entry)?;
        let names = 1;
        self.links.insert(
            group,
            Link {
                nid,
                names,
                fingerprint,
            },
        );
        Ok(nid)
    }

    fn add_leaf_inode(&mut self, entry: &ImageEntry<'_>) -> Result<u64, Reason> {
        let (mut size_bytes, mut layout, mut union) = (0, Layout::Plain, 0);
        let mut tail: &[u8] = b"";
        let mut content_path = None;
        match entry.inode {
            ImageInode::File {
                content,
                size_bytes: size,
            } if size > 0 => {
                (size_bytes, layout, union) = (size, Layout::Chunks, CHUNK_FORMAT);
                tail = &HOLE;
                content_path = Some(redirect(content));
            }
            ImageInode::Symlink(bytes) | ImageInode::SmallFile(bytes) => {
                (size_bytes, layout, tail) = (bytes.len() as u64, Layout::Inline, bytes);
            }
            ImageInode::CharDevice(device) | ImageInode::BlockDevice(device) => {
                union = encode_device(device).ok_or("a device number that Linux does not have")?;
            }
            ImageInode::Whiteout
            | ImageInode::File { .. }
            | ImageInode::Directory { .. }
            | ImageInode::Fifo
            | ImageInode::Socket => {}
        }
        let own: &[(&[u8], &[u8])] = match &content_path {
            Some(path) => &[(METACOPY, b""), (REDIRECT, path)],
            None => &[],
        };
        self.xattrs.fill(own, entry.attributes)?;
        if matches!(layout, Layout::Inline) && !Space::is_inline(&self.xattrs, tail.len()) {
            let (block, place) = self.space.add_blocks(1)?;
            self.space.at(place)[..tail.len()].copy_from_slice(tail);
            (layout, union, tail) = (Layout::Plain, block, b"");
        }
        let inode = Inode {
            file_type: entry.file_type(),
            layout,
            attributes: entry.attributes,
            size_bytes,
            union,
            nlink: 1,
        };
        let (nid, place) = self.space.add_inode(&inode, &self.xattrs, tail.len())?;
        self.space.at(place)[..tail.len()].copy_from_slice(tail);
        Ok(nid)
    }
}

/// What a directory will take at least, in bytes, which is also what its handle takes.
fn promised_bytes(attributes: &Attributes) -> usize {
    let xattrs = attributes.xattrs.iter();
    INODE_BYTES + xattrs.map(|x| x.name.len() + x.value.len()).sum::<usize>()
}
