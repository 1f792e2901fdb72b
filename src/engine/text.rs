//! From bytes to text, piece by piece.
//!
//! Each sequence owns one decoder; called on the worker thread. It never fails: bytes that are no
//! UTF-8 become U+FFFD, exactly as `String::from_utf8_lossy` does with all bytes at once.

/// Decodes a stream of bytes that is cut anywhere, also within characters.
#[derive(Debug, Default)]
pub(super) struct TextDecoder {
    /// The start of a character whose other bytes are still to come: at most 3 bytes.
    tail: Vec<u8>,
}

impl TextDecoder {
    /// The text that is certain once `piece` has come.
    pub(super) fn push(&mut self, piece: &[u8]) -> String {
        if self.tail.is_empty() {
            return self.decode(piece);
        }
        let mut joined = std::mem::take(&mut self.tail);
        joined.extend_from_slice(piece);
        self.decode(&joined)
    }

    /// The text of what is left: U+FFFD for a character that was cut short, else nothing.
    pub(super) fn finish(&mut self) -> &'static str {
        if self.tail.is_empty() {
            return "";
        }
        self.tail.clear();
        "\u{FFFD}"
    }

    fn decode(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_start_of_character(invalid) {
                self.tail.extend_from_slice(invalid);
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }
}

/// Whether more bytes could make a character of these; false for no bytes.
fn is_start_of_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
