//! Poly1305 (RFC 8439, section 2.5): what its sums have in common, however they are made. ChaCha20-Poly1305 pads texts to whole blocks.

/// The bytes of a block.
pub(super) const BLOCK: usize = 16;

/// The tag of a sum below 2 · (2^130 − 5): what it is modulo 2^130 − 5, and a pad.
#[inline]
pub(super) fn tag([h0, h1, h2]: [u64; 3], pad: [u64; 2]) -> [u8; BLOCK] {
    // Where h is not below the modulus, what is left of it without the modulus: h + 5 without bit 130.
    let (g0, carry) = h0.overflowing_add(5);
    let (g1, carry) = h1.overflowing_add(carry.into());
    let reduces = (((h2 + u64::from(carry)) >> 2) & 1).wrapping_neg();
    let low = (h0 & !reduces) | (g0 & reduces);
    let high = (h1 & !reduces) | (g1 & reduces);
    let (low, carry) = low.overflowing_add(pad[0]);
    let high = high.wrapping_add(pad[1]).wrapping_add(carry.into());
    let mut tag = [0; BLOCK];
    tag[..8].copy_from_slice(&low.to_le_bytes());
    tag[8..].copy_from_slice(&high.to_le_bytes());
    tag
}

/// Words, little-endian.
pub(super) fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
