//! ChaCha20 (RFC 8439, section 2.3): eight blocks at once in the vectors of AVX2, each of any message, while Poly1305 goes on in the
//! scalar units beside it.

use std::arch::{
    asm,
    x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_set1_epi32,
        _mm256_setr_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
        _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
    },
};
use std::mem::offset_of;

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

/// Exclusive or of a text and eight blocks of the key stream. `beside` goes on as far as there is time.
#[target_feature(enable = "avx2,bmi2")]
pub(super) fn apply(key: &[u32; 8], lanes: &Lanes, beside: &mut Pair<'_>, text: &mut [[u8; BLOCK]; LANES]) {
    let a = CONSTANTS.map(|word| all(word));
    let [k0, k1, k2, k3, k4, k5, k6, k7] = key.map(|word| all(word));
    let (b, c) = ([k0, k1, k2, k3], [k4, k5, k6, k7]);
    let [numbers, low, high] = lanes.0;
    let d = [numbers, all(0), low, high];
    let mut rows = Rows { a, b, c: [c[0], c[1]], d };
    let mut memory = Memory { by_16: BY_16, by_8: BY_8, aside: c };
    beside.stepping(|sums| {
        for _ in 0..10 {
            rows.column_round(&mut memory);
            sums.advance();
            rows.diagonal_round(&mut memory);
            sums.advance();
        }
    });
    let sum = |mixed: [__m256i; 4], start: [__m256i; 4]| {
        let ([m0, m1, m2, m3], [s0, s1, s2, s3]) = (mixed, start);
        [
            _mm256_add_epi32(m0, s0),
            _mm256_add_epi32(m1, s1),
            _mm256_add_epi32(m2, s2),
            _mm256_add_epi32(m3, s3),
        ]
    };
    let [x0, x1, x2, x3] = sum(rows.a, a);
    let [x4, x5, x6, x7] = sum(rows.b, b);
    let [_, _, c2, c3] = memory.aside;
    let [x8, x9, x10, x11] = sum([rows.c[0], rows.c[1], c2, c3], c);
    let [x12, x13, x14, x15] = sum(rows.d, d);
    let former = transposed([x0, x1, x2, x3, x4, x5, x6, x7]);
    for (block, words) in text.iter_mut().zip(former) {
        exclusive_or(block, 0, words);
    }
    let latter = transposed([x8, x9, x10, x11, x12, x13, x14, x15]);
    for (block, words) in text.iter_mut().zip(latter) {
        exclusive_or(block, 32, words);
    }
}

/// The four rows of the state, of eight blocks: a vector for each word.
struct Rows {
    a: [__m256i; 4],
    b: [__m256i; 4],
    /// The two words of the third row that the next two quarter rounds need; the other two are aside. There are sixteen registers for the
    /// sixteen words, and rotations need one for themselves.
    c: [__m256i; 2],
    d: [__m256i; 4],
}

/// What the rounds have in memory, at offsets that their assembly knows.
#[repr(C, align(32))]
struct Memory {
    by_16: [[u8; 16]; 2],
    by_8: [[u8; 16]; 2],
    /// Words of the third row.
    aside: [__m256i; 4],
}

/// Which byte of its half each byte becomes: words rotated to the left by 16 bits.
const BY_16: [[u8; 16]; 2] = [[2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13]; 2];

/// Words rotated to the left by 8 bits.
const BY_8: [[u8; 16]; 2] = [[3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]; 2];

const _: () = assert!(offset_of!(Memory, by_8) == 32 && offset_of!(Memory, aside) == 64);

/// Two quarter rounds beside each other, on words a, b and d of each; their words c are in `{c0}` and `{c1}`, or in memory at first. In
/// assembly, since the compiler keeps the patterns of the shuffles in registers, and then has too few for the words: it moves a dozen
/// of them to and fro in each round, on the way that everything waits for.
macro_rules! two_quarter_rounds {
    (aside at $from0:literal, $from1:literal: $($words:tt)*) => {
        concat!(
            two_quarter_rounds!(@half "0", "12", "20", concat!("ymmword ptr [{memory} + ", $from0, "]"),
                concat!("ymmword ptr [{memory} + ", $from1, "]"), $($words)*),
            two_quarter_rounds!(@half "32", "7", "25", "{c0}", "{c1}", $($words)*),
        )
    };
    (at hand, then aside at $to0:literal, $to1:literal: $($words:tt)*) => {
        concat!(
            two_quarter_rounds!(@half "0", "12", "20", "{c0}", "{c1}", $($words)*),
            two_quarter_rounds!(@half "32", "7", "25", "{c0}", "{c1}", $($words)*),
            "vmovdqa ymmword ptr [{memory} + ", $to0, "], {c0}\n",
            "vmovdqa ymmword ptr [{memory} + ", $to1, "], {c1}\n",
        )
    };
    (@half $pattern:literal, $left:literal, $right:literal, $c0:expr, $c1:expr,
        $a0:literal $b0:literal $d0:literal, $a1:literal $b1:literal $d1:literal) => {
        concat!(
            "vpaddd {", $a0, "}, {", $a0, "}, {", $b0, "}\n",
            "vpaddd {", $a1, "}, {", $a1, "}, {", $b1, "}\n",
            "vpxor {", $d0, "}, {", $d0, "}, {", $a0, "}\n",
            "vpxor {", $d1, "}, {", $d1, "}, {", $a1, "}\n",
            "vpshufb {", $d0, "}, {", $d0, "}, ymmword ptr [{memory} + ", $pattern, "]\n",
            "vpshufb {", $d1, "}, {", $d1, "}, ymmword ptr [{memory} + ", $pattern, "]\n",
            "vpaddd {c0}, {", $d0, "}, ", $c0, "\n",
            "vpaddd {c1}, {", $d1, "}, ", $c1, "\n",
            "vpxor {", $b0, "}, {", $b0, "}, {c0}\n",
            "vpxor {", $b1, "}, {", $b1, "}, {c1}\n",
            "vpslld {t0}, {", $b0, "}, ", $left, "\n",
            "vpslld {t1}, {", $b1, "}, ", $left, "\n",
            "vpsrld {", $b0, "}, {", $b0, "}, ", $right, "\n",
            "vpsrld {", $b1, "}, {", $b1, "}, ", $right, "\n",
            "vpor {", $b0, "}, {", $b0, "}, {t0}\n",
            "vpor {", $b1, "}, {", $b1, "}, {t1}\n",
        )
    };
}

/// A round of four quarter rounds.
macro_rules! round {
    ($rows:expr, $memory:expr, $first:expr, $second:expr) => {{
        let Rows { a: [a0, a1, a2, a3], b: [b0, b1, b2, b3], c: [c0, c1], d: [d0, d1, d2, d3] } = $rows;
        // SAFETY: it reads and writes `Memory`, within its bounds, and no other memory; and registers that are named.
        unsafe {
            asm!(
                $first,
                $second,
                a0 = inout(ymm_reg) *a0, a1 = inout(ymm_reg) *a1, a2 = inout(ymm_reg) *a2, a3 = inout(ymm_reg) *a3,
                b0 = inout(ymm_reg) *b0, b1 = inout(ymm_reg) *b1, b2 = inout(ymm_reg) *b2, b3 = inout(ymm_reg) *b3,
                c0 = inout(ymm_reg) *c0, c1 = inout(ymm_reg) *c1, t0 = out(ymm_reg) _, t1 = out(ymm_reg) _,
                d0 = inout(ymm_reg) *d0, d1 = inout(ymm_reg) *d1, d2 = inout(ymm_reg) *d2, d3 = inout(ymm_reg) *d3,
                memory = in(reg) std::ptr::from_mut::<Memory>($memory),
                options(nostack, preserves_flags),
            );
        }
    }};
}

impl Rows {
    /// The words c of the first two columns are at hand before, those of the last two after it.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn column_round(&mut self, memory: &mut Memory) {
        round!(
            self,
            memory,
            two_quarter_rounds!(at hand, then aside at "64", "96": "a0" "b0" "d0", "a1" "b1" "d1"),
            two_quarter_rounds!(aside at "128", "160": "a2" "b2" "d2", "a3" "b3" "d3")
        );
    }

    /// The other way round.
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn diagonal_round(&mut self, memory: &mut Memory) {
        round!(
            self,
            memory,
            two_quarter_rounds!(at hand, then aside at "128", "160": "a0" "b1" "d3", "a1" "b2" "d0"),
            two_quarter_rounds!(aside at "64", "96": "a2" "b3" "d1", "a3" "b0" "d2")
        );
    }
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

/// Exclusive or of words and the half of a block that begins at a byte.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn exclusive_or(block: &mut [u8; BLOCK], from: usize, words: __m256i) {
    if let Some(half) = block.get_mut(from..).and_then(|half| half.first_chunk_mut::<32>()) {
        let half = half.as_mut_ptr().cast();
        // SAFETY: there are 32 bytes to be read and written, aligned or not.
        unsafe { _mm256_storeu_si256(half, _mm256_xor_si256(words, _mm256_loadu_si256(half))) };
    }
}
