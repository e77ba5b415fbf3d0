//! ChaCha20 (RFC 8439, section 2.3): eight blocks at once in the vectors of AVX2, each of any message, while Poly1305 goes on in the
//! scalar units beside it.

use std::arch::{
    asm,
    x86_64::{
        __m256i, _mm256_add_epi32, _mm256_or_si256, _mm256_permute2x128_si256, _mm256_set1_epi32,
        _mm256_setr_epi32, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi32,
        _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
    },
};

use super::poly1305::Pair;

/// So many blocks at once.
pub(super) const LANES: usize = 8;

/// The bytes of a block.
pub(super) const BLOCK: usize = 64;

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Which block each lane is: its number, and the lower and the upper half of its nonce (behind four zero bytes).
#[derive(Clone, Copy)]
pub(super) struct Lanes([__m256i; 3]);

impl Lanes {
    /// Blocks of one message that follow each other.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    pub(super) fn following(nonce: u64, first: u32) -> Self {
        let numbers = _mm256_add_epi32(all(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        Self([numbers, all(nonce as u32), all((nonce >> 32) as u32)])
    }

    /// Blocks of any messages: nonces and numbers.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    pub(super) fn of(blocks: [(u64, u32); LANES]) -> Self {
        let each = |word: fn((u64, u32)) -> u32| {
            let [a, b, c, d, e, f, g, h] = blocks.map(|block| word(block).cast_signed());
            _mm256_setr_epi32(a, b, c, d, e, f, g, h)
        };
        Self([
            each(|(_, number)| number),
            each(|(nonce, _)| nonce as u32),
            each(|(nonce, _)| (nonce >> 32) as u32),
        ])
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn all(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

/// Eight blocks of the key stream. `beside` goes on as far as there is time.
#[target_feature(enable = "avx2,bmi2")]
pub(super) fn blocks(key: &[u32; 8], lanes: &Lanes, beside: &mut Pair<'_>, out: &mut [[u8; BLOCK]; LANES]) {
    let [c0, c1, c2, c3] = CONSTANTS.map(|word| all(word));
    let [k0, k1, k2, k3, k4, k5, k6, k7] = key.map(|word| all(word));
    let [numbers, low, high] = lanes.0;
    let start = [c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, numbers, all(0), low, high];
    let mut x = start;
    // Four quarter rounds, step by step beside each other.
    macro_rules! quarter_rounds {
        ($([$a:literal, $b:literal, $c:literal, $d:literal]),*) => {
            $(x[$a] = _mm256_add_epi32(x[$a], x[$b]);)*
            $(x[$d] = shuffled(_mm256_xor_si256(x[$d], x[$a]), &BY_16);)*
            $(x[$c] = _mm256_add_epi32(x[$c], x[$d]);)*
            $(x[$b] = rotated::<12, 20>(_mm256_xor_si256(x[$b], x[$c]));)*
            $(x[$a] = _mm256_add_epi32(x[$a], x[$b]);)*
            $(x[$d] = shuffled(_mm256_xor_si256(x[$d], x[$a]), &BY_8);)*
            $(x[$c] = _mm256_add_epi32(x[$c], x[$d]);)*
            $(x[$b] = rotated::<7, 25>(_mm256_xor_si256(x[$b], x[$c]));)*
        };
    }
    for _ in 0..10 {
        quarter_rounds!([0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]);
        beside.advance();
        quarter_rounds!([0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]);
        beside.advance();
    }
    for (word, start) in x.iter_mut().zip(start) {
        *word = _mm256_add_epi32(*word, start);
    }
    let [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15] = x;
    let former = transposed([x0, x1, x2, x3, x4, x5, x6, x7]);
    let latter = transposed([x8, x9, x10, x11, x12, x13, x14, x15]);
    for ((block, former), latter) in out.iter_mut().zip(former).zip(latter) {
        let (head, tail) = block.split_at_mut(32);
        store(head, former);
        store(tail, latter);
    }
}

/// Each word rotated to the left; `RIGHT` is 32 less `LEFT`.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn rotated<const LEFT: i32, const RIGHT: i32>(words: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(words), _mm256_srli_epi32::<RIGHT>(words))
}

/// Which byte of its vector each byte becomes, in both halves.
#[repr(align(32))]
struct Shuffle([[u8; 16]; 2]);

/// Words rotated to the left by 16 bits.
static BY_16: Shuffle = Shuffle([[2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13]; 2]);

/// Words rotated to the left by 8 bits.
static BY_8: Shuffle = Shuffle([[3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]; 2]);

/// In assembly, since the compiler would make two shuffles of a shuffle behind an exclusive or, and keep both patterns in registers, of
/// which there are just enough for the sixteen words.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn shuffled(words: __m256i, pattern: &Shuffle) -> __m256i {
    let out;
    // SAFETY: it reads the pattern, which is 32 bytes, and nothing else.
    unsafe {
        asm!(
            "vpshufb {out}, {words}, ymmword ptr [{pattern}]",
            out = lateout(ymm_reg) out,
            words = in(ymm_reg) words,
            pattern = in(reg) pattern.0.as_ptr(),
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    out
}

/// Rows for columns.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn transposed(rows: [__m256i; 8]) -> [__m256i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let (ab0, ab1) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd0, cd1) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let (ef0, ef1) = (_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f));
    let (gh0, gh1) = (_mm256_unpacklo_epi32(g, h), _mm256_unpackhi_epi32(g, h));
    let upper = [
        _mm256_unpacklo_epi64(ab0, cd0),
        _mm256_unpackhi_epi64(ab0, cd0),
        _mm256_unpacklo_epi64(ab1, cd1),
        _mm256_unpackhi_epi64(ab1, cd1),
    ];
    let lower = [
        _mm256_unpacklo_epi64(ef0, gh0),
        _mm256_unpackhi_epi64(ef0, gh0),
        _mm256_unpacklo_epi64(ef1, gh1),
        _mm256_unpackhi_epi64(ef1, gh1),
    ];
    let [u0, u1, u2, u3] = upper;
    let [l0, l1, l2, l3] = lower;
    [
        _mm256_permute2x128_si256::<0x20>(u0, l0),
        _mm256_permute2x128_si256::<0x20>(u1, l1),
        _mm256_permute2x128_si256::<0x20>(u2, l2),
        _mm256_permute2x128_si256::<0x20>(u3, l3),
        _mm256_permute2x128_si256::<0x31>(u0, l0),
        _mm256_permute2x128_si256::<0x31>(u1, l1),
        _mm256_permute2x128_si256::<0x31>(u2, l2),
        _mm256_permute2x128_si256::<0x31>(u3, l3),
    ]
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn store(to: &mut [u8], vector: __m256i) {
    if let Some(to) = to.first_chunk_mut::<32>() {
        // SAFETY: there is room for 32 bytes, aligned or not.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), vector) };
    }
}
