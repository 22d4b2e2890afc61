//! From names to contents: what files need, found in the file system that they are part of.

mod elf;
mod javascript;
mod python;

use std::collections::{BTreeMap, HashMap, HashSet};

use nacre_blobstore::{ContentHint, ContentId, Hints};

use super::{Needs, WHOLE_BYTES_MAX};
use crate::merge::{File, Folder, MergedTree};
use crate::oci::ImageConfig;

/// What one content needs at most; beyond it the rest is found at its turn.
const NEEDS_MAX: usize = 4096;

/// What files say that they need, by content.
pub(crate) type AllNeeds = HashMap<ContentId, Needs>;

/// What is read to find a user before a sandbox starts, and what most of them start first, whatever
/// the image says.
const STARTED: &[&[u8]] = &[b"/etc/passwd", b"/etc/group", b"/bin/sh"];

/// Makes the hints of a file system whose image starts `program`, found in the directories of `path`.
/// What is named and not there is left out. A content with several names needs what it needs at
/// each.
pub(crate) fn resolve(tree: &MergedTree, needs: &AllNeeds, program: &Program) -> Hints {
    let mut table = Table::default();
    let roots = python::Roots::of(tree);
    tree.each_file(&mut |folder, name, file| match needs.get(&file.0) {
        Some(Needs::Elf(elf)) => {
            table.read(file, &elf.ranges);
            table.add(file, elf::needed(folder, elf));
            table.add(file, elf::read_by(folder, name));
            table.add(file, roots.started_by(folder, name));
            table.add(file, roots.named(folder, &elf.modules));
        }
        Some(Needs::Python(imports)) => {
            let imported = roots.imported(folder, imports);
            if let Some(compiled) = python::compiled(folder, name) {
                table.add(compiled, imported.iter().copied());
            }
            table.add(file, imported);
        }
        Some(Needs::JavaScript(specifiers)) => {
            table.add(file, javascript::required(folder, specifiers, needs));
        }
        Some(Needs::PackageJson(_)) | None => {}
    });
    let root = tree.folder();
    let started = STARTED.iter();
    let mut start: Vec<File> = started.filter_map(|path| root.file_at(path)).collect();
    start.extend(program.find(&root));
    start.iter().for_each(|file| table.read(*file, &[]));
    table.finish(&start)
}

/// The program that an image says to start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    name: String,
    /// Directories to look for it, separated by colons.
    path: String,
}

impl Program {
    /// Takes what an OCI config says; one that cannot be read starts nothing that is known.
    pub(crate) fn of(config: &str) -> Self {
        let Ok(config) = ImageConfig::parse(config.as_bytes()) else {
            return Self::default();
        };
        let mut arguments = config.entrypoint.into_iter().chain(config.cmd);
        let path = config
            .env
            .iter()
            .find_map(|variable| variable.strip_prefix("PATH="));
        Self {
            name: arguments.next().unwrap_or_default(),
            path: path.unwrap_or_default().to_owned(),
        }
    }

    fn find(&self, root: &Folder<'_>) -> Option<File> {
        if self.name.contains('/') {
            return root.file_at(self.name.as_bytes());
        }
        let mut directories = self.path.split(':');
        directories
            .find_map(|directory| root.file_at(format!("{directory}/{}", self.name).as_bytes()))
    }
}

/// What is known of each content.
#[derive(Debug, Default)]
struct Table(BTreeMap<ContentId, ContentHint>);

impl Table {
    fn entry(&mut self, (content, size_bytes): File) -> &mut ContentHint {
        self.0.entry(content).or_insert_with(|| ContentHint {
            size_bytes,
            ..ContentHint::default()
        })
    }

    /// Notes which ranges of a large content are read.
    fn read(&mut self, file: File, ranges: &[std::ops::Range<u64>]) {
        let entry = self.entry(file);
        if file.1 > WHOLE_BYTES_MAX && !ranges.is_empty() {
            entry.ranges = ranges.to_vec();
        }
    }

    fn add(&mut self, file: File, needed: impl IntoIterator<Item = File>) {
        for need in needed {
            if need.1 > 0 && need.0 != file.0 {
                self.entry(need);
                let needs = &mut self.entry(file).needs;
                if needs.len() < NEEDS_MAX {
                    needs.push(need.0);
                }
            }
        }
    }

    fn finish(mut self, start: &[File]) -> Hints {
        for hint in self.0.values_mut() {
            let mut seen = HashSet::new();
            hint.needs.retain(|need| seen.insert(*need));
        }
        let start: Vec<ContentId> = start.iter().map(|(content, _)| *content).collect();
        Hints::new(self.0, &start)
    }
}

#[cfg(test)]
mod tests;
