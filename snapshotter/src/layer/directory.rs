//! A plain directory as a layer: everything below it, each directory before its entries and
//! those in the order of their names.
//!
//! Paths are never resolved twice. Each name is opened once below its directory's descriptor,
//! without following links, and everything else is asked of that descriptor (by way of
//! `/proc/self/fd`, which must be mounted). So a directory that changes meanwhile can give an
//! error or a file's other version, never something outside of it. Names have no special meaning
//! here: a file called `.wh.x` is that file. What is mounted below the directory is part of it.

mod inode;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

pub(crate) use self::inode::Inode;
use super::error::{Fault, LayerError, LayerPosition};
use super::{EntryKind, EntrySource, LayerEntry, LayerLimits, LayerPath};

/// Reads a directory tree as one layer.
#[derive(Debug)]
pub struct DirectoryReader {
    layer: String,
    limits: LayerLimits,
    /// The root, until it is returned.
    root: Option<Inode>,
    /// The directories from the root to where the walk stands: at most the limit on depth, so the
    /// open descriptors are bounded.
    levels: Vec<Level>,
    /// The first path of every inode that has several.
    links: HashMap<InodeId, LayerPath>,
    file: Option<OpenFile>,
    position: LayerPath,
    entries: u64,
    files_bytes: u64,
    failed: bool,
}

/// Names an inode on this machine: major and minor of its file system, and its number.
pub(crate) type InodeId = (u32, u32, u64);

/// A directory that is being walked.
#[derive(Debug)]
struct Level {
    directory: OwnedFd,
    path: LayerPath,
    /// Names not yet visited, the next one last.
    names: Vec<CString>,
}

/// The file whose data is read.
#[derive(Debug)]
struct OpenFile {
    file: File,
    inode: Inode,
    left_bytes: u64,
}

impl DirectoryReader {
    /// Opens `directory`, to be called `layer` in errors.
    ///
    /// # Errors
    /// [`LayerError::Io`] when it cannot be opened or is no directory.
    pub fn open(directory: &Path, layer: &str, limits: LayerLimits) -> Result<Self, LayerError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(Fault::from)
            .and_then(Inode::new)
            .map_err(|fault| {
                fault.at(LayerPosition {
                    layer: layer.into(),
                    entry: String::new(),
                })
            })?;
        Ok(Self {
            layer: layer.into(),
            limits,
            root: Some(root),
            levels: Vec::new(),
            links: HashMap::new(),
            file: None,
            position: LayerPath::default(),
            entries: 0,
            files_bytes: 0,
            failed: false,
        })
    }

    fn fail(&mut self, fault: Fault) -> LayerError {
        self.failed = true;
        fault.at(LayerPosition {
            layer: self.layer.clone(),
            entry: self.position.to_string(),
        })
    }

    fn check_not_failed(&self) -> Result<(), Fault> {
        if self.failed {
            Err(Fault::malformed("read on after an error"))
        } else {
            Ok(())
        }
    }

    fn scan(&mut self) -> Result<Option<LayerEntry>, Fault> {
        self.check_not_failed()?;
        self.file = None;
        if let Some(root) = self.root.take() {
            return self.entry(LayerPath::default(), root).map(Some);
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            self.position = level.path.join(name.as_bytes(), &self.limits)?;
            let inode = Inode::open(&level.directory, &name)?;
            return self.entry(self.position.clone(), inode).map(Some);
        }
        Ok(None)
    }

    fn entry(&mut self, path: LayerPath, inode: Inode) -> Result<LayerEntry, Fault> {
        self.entries += 1;
        Fault::check_limit(self.entries, self.limits.entries_max, "entries")?;
        let attributes = inode.attributes()?;
        let file_type = inode.file_type();
        if file_type != FileType::Directory && inode.link_count() > 1 {
            if let Some(first) = self.links.get(&inode.id()) {
                let kind = EntryKind::HardLink(first.clone());
                return Ok(LayerEntry {
                    path,
                    kind,
                    attributes,
                });
            }
            self.links.insert(inode.id(), path.clone());
        }
        let kind = match file_type {
            FileType::RegularFile => self.open_file(inode)?,
            FileType::Directory => {
                self.descend(path.clone(), inode)?;
                EntryKind::Directory
            }
            FileType::Symlink => EntryKind::Symlink(inode.symlink_target()?),
            FileType::CharacterDevice => EntryKind::CharDevice(inode.device()),
            FileType::BlockDevice => EntryKind::BlockDevice(inode.device()),
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            FileType::Unknown => return Err(Fault::Unsupported("unknown type of file".into())),
        };
        Ok(LayerEntry {
            path,
            kind,
            attributes,
        })
    }

    fn open_file(&mut self, inode: Inode) -> Result<EntryKind, Fault> {
        let size_bytes = inode.size_bytes();
        Fault::check_limit(size_bytes, self.limits.file_bytes_max, "bytes in a file")?;
        self.files_bytes = self.files_bytes.saturating_add(size_bytes);
        let max = self.limits.plain_bytes_max;
        Fault::check_limit(self.files_bytes, max, "bytes in all files")?;
        let file = inode.open_data()?;
        self.file = Some(OpenFile {
            file,
            inode,
            left_bytes: size_bytes,
        });
        Ok(EntryKind::File { size_bytes })
    }

    fn descend(&mut self, path: LayerPath, inode: Inode) -> Result<(), Fault> {
        let mut names = Vec::new();
        for entry in inode.list()? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                names.push(name);
            }
            let total = self.entries.saturating_add(names.len() as u64);
            Fault::check_limit(total, self.limits.entries_max, "entries")?;
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level {
            directory: inode.handle,
            path,
            names,
        });
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        self.check_not_failed()?;
        match &mut self.file {
            Some(file) => file.read(buffer),
            None => Ok(0),
        }
    }
}

impl OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let len =
            usize::try_from(self.left_bytes).map_or(buffer.len(), |left| left.min(buffer.len()));
        if self.left_bytes == 0 {
            self.inode.check_unchanged()?;
        }
        if len == 0 {
            return Ok(0);
        }
        let read = loop {
            match self.file.read(&mut buffer[..len]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if read == 0 {
            return Err(Fault::Changed);
        }
        self.left_bytes -= read as u64;
        Ok(read)
    }
}

impl EntrySource for DirectoryReader {
    fn next_entry(&mut self) -> Result<Option<LayerEntry>, LayerError> {
        self.scan().map_err(|fault| self.fail(fault))
    }

    fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        self.read(buffer).map_err(|fault| self.fail(fault))
    }
}

#[cfg(test)]
mod tests;
