//! Vectors of 64 bytes in memory.

use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_shuffle_i64x2,
    _mm512_storeu_si512,
};

/// The bytes of a vector.
pub(super) const BYTES: usize = 64;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
pub(super) fn load(from: &[u8; BYTES]) -> __m512i {
    // SAFETY: there are 64 bytes, aligned or not.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Words, the first one in the first lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
pub(super) fn of_words(words: [u32; BYTES / 4]) -> __m512i {
    let mut bytes = [0; BYTES];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    load(&bytes)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
pub(super) fn store(to: &mut [u8; BYTES], vector: __m512i) {
    // SAFETY: there is room for 64 bytes, aligned or not.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), vector) }
}

/// As many bytes as there are, at most 64, and zeros behind them. Better not of none: no page may be at their address, and the processor takes
/// long to find that this does not matter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
pub(super) fn load_some(from: &[u8]) -> __m512i {
    // SAFETY: no more bytes are read than there are.
    unsafe { _mm512_maskz_loadu_epi8(first(from.len()), from.as_ptr().cast()) }
}

/// As many of the first bytes as there is room for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
pub(super) fn store_some(to: &mut [u8], vector: __m512i) {
    // SAFETY: no more bytes are written than there is room for.
    unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), first(to.len()), vector) }
}

/// Four vectors of quarters: the first ones of four vectors, the second ones, the third ones, and the last ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
pub(super) fn by_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab02, ab13) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
    let (cd02, cd13) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(ab02, cd02),
        _mm512_shuffle_i64x2::<0x88>(ab13, cd13),
        _mm512_shuffle_i64x2::<0xdd>(ab02, cd02),
        _mm512_shuffle_i64x2::<0xdd>(ab13, cd13),
    ]
}

/// A bit for each of the first bytes of a vector.
const fn first(bytes: usize) -> u64 {
    match bytes {
        0..BYTES => (1 << bytes) - 1,
        _ => u64::MAX,
    }
}
