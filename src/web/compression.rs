//! Compressed texts (gzip, RFC 1952), for responses and for storage in memory.

use crate::encoding::gzip;

/// The uncompressed length modulo 4 GiB, from the last four bytes (RFC 1952 section 2.3.1).
pub(super) fn unpacked_length(packed: &[u8]) -> usize {
    packed.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

/// Compresses a text with gzip. Compression in memory does not fail.
pub fn compress(text: &str) -> std::io::Result<Vec<u8>> {
    gzip(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_texts_contain_their_length() {
        for text in ["", "a", &"integrations: []\n".repeat(1_000)] {
            assert_eq!(unpacked_length(&compress(text).expect("compressed")), text.len());
        }
        assert_eq!(unpacked_length(&[]), 0);
    }
}
