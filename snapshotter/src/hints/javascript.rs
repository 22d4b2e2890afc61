//! What a JavaScript module loads while it is loaded.

/// Returns the specifiers of a module, in the order of its text, each once.
pub(super) fn specifiers(_text: &[u8]) -> Vec<String> {
    Vec::new()
}
