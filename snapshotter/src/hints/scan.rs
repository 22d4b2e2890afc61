//! Which scanner a file gets, and what of its bytes is kept for it.

use super::elf::ElfCapture;
use super::{Needs, extension, javascript, package_json, python};

/// Larger texts are data, or bundles that need no other file.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A language whose text is kept and scanned at the end of the file.
#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    JavaScript,
    PackageJson,
}

#[derive(Debug)]
enum State {
    Text { language: Language, text: Vec<u8> },
    Elf(ElfCapture),
    Nothing,
}

/// Finds what one file needs while its bytes pass. A file of no interest costs a look at its first
/// bytes and no allocation.
#[derive(Debug)]
pub(crate) struct Scanner(State);

impl Scanner {
    /// A scanner for the file at `path`. Its name decides which text it may be, or whether it is an
    /// extension module of Python; anything else may be ELF, which its first bytes decide.
    pub(crate) fn new(path: &[u8]) -> Self {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let language = if name == b"package.json" {
            Language::PackageJson
        } else {
            match name.rsplit(|byte| *byte == b'.').next() {
                Some(ending) if ending.len() == name.len() => return Self::binary(name),
                Some(b"py" | b"pth") => Language::Python,
                Some(b"js" | b"cjs" | b"mjs") => Language::JavaScript,
                _ => return Self::binary(name),
            }
        };
        let text = Vec::new();
        Self(State::Text { language, text })
    }

    fn binary(name: &[u8]) -> Self {
        Self(State::Elf(ElfCapture::new(extension::is_extension(name))))
    }

    /// Takes the next bytes of the file, in order, however they are cut.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let wanted = match &mut self.0 {
            State::Text { text, .. } => {
                let fits = bytes.len() <= TEXT_BYTES_MAX.saturating_sub(text.len());
                if fits {
                    text.extend_from_slice(bytes);
                }
                fits
            }
            State::Elf(capture) => capture.take(bytes),
            State::Nothing => return,
        };
        if !wanted {
            self.0 = State::Nothing;
        }
    }

    /// Ends the file, which has `size_bytes`. `None` when it needs nothing that is known.
    pub(crate) fn finish(self, size_bytes: u64) -> Option<Needs> {
        match self.0 {
            State::Text { language, text } => match language {
                Language::Python => some(python::imports(&text), Needs::Python),
                Language::JavaScript => some(javascript::specifiers(&text), Needs::JavaScript),
                Language::PackageJson => package_json::entry(&text).map(Needs::PackageJson),
            },
            State::Elf(capture) => capture.finish(size_bytes).map(Needs::Elf),
            State::Nothing => None,
        }
    }
}

fn some<T>(found: Vec<T>, needs: fn(Vec<T>) -> Needs) -> Option<Needs> {
    (!found.is_empty()).then(|| needs(found))
}

#[cfg(test)]
mod tests;
