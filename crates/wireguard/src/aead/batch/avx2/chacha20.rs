//! ChaCha20 (RFC 8439, section 2.3): eight blocks at once in the vectors of AVX2, each of any message, while Poly1305 goes on in the
//! scalar units beside it.

use std::arch::{
    asm,
    x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_set1_epi32,
        _mm256_setr_epi32, _mm256_setzero_si256, _mm256_storeu_si256, _mm256_unpackhi_epi32,
        _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
    },
};
use std::mem::offset_of;

use zeroize::ZeroizeOnDrop;

use super::{
    super::{BLOCK, CONSTANTS},
    poly1305::Sum,
};

/// So many blocks at once.
pub(super) const LANES: usize = 8;

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

/// ChaCha20 under a key. The assembly of the rounds knows at which offsets the first fields are.
#[derive(ZeroizeOnDrop)]
#[repr(C, align(32))]
pub(super) struct ChaCha20 {
    /// Which byte of its half each byte becomes: words rotated to the left by 16 bits.
    by_16: [[u8; 16]; 2],
    /// Words rotated to the left by 8 bits.
    by_8: [[u8; 16]; 2],
    /// The last word of the third row, while rounds are done.
    c3: __m256i,
    /// The first three rows before the first round.
    start: [[__m256i; 4]; 3],
}

const _: () = {
    assert!(offset_of!(ChaCha20, by_16) == 0 && offset_of!(ChaCha20, by_8) == 32);
    assert!(offset_of!(ChaCha20, c3) == 64);
};

impl ChaCha20 {
    #[target_feature(enable = "avx2,bmi2")]
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let mut words = [[_mm256_setzero_si256(); 4]; 2];
        for (word, bytes) in words.as_flattened_mut().iter_mut().zip(key.as_chunks().0) {
            *word = all(u32::from_le_bytes(*bytes));
        }
        let [b, c] = words;
        Self {
            by_16: [[2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13]; 2],
            by_8: [[3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]; 2],
            c3: _mm256_setzero_si256(),
            start: [CONSTANTS.map(|word| all(word)), b, c],
        }
    }

    /// Exclusive or of a text and eight blocks of the key stream. A sum goes on beside that, by the 30 blocks that there is time for: twenty
    /// rounds wait for themselves more than they fill the processor.
    #[target_feature(enable = "avx2,bmi2")]
    pub(super) fn apply<'a>(
        &mut self,
        lanes: &Lanes,
        mut beside: Sum<'a>,
        text: &mut [[u8; BLOCK]; LANES],
    ) -> Sum<'a> {
        let [a, b, [c0, c1, c2, c3]] = self.start;
        let [numbers, low, high] = lanes.0;
        let d = [numbers, _mm256_setzero_si256(), low, high];
        let mut rows = Rows { a, b, c: [c0, c1, c2], d };
        self.c3 = c3;
        for _ in 0..10 {
            rows.column_round(self);
            beside.advance(1);
            rows.diagonal_round(self);
            beside.advance(2);
        }
        let [a, b, c] = self.start;
        let [x0, x1, x2, x3] = sums(rows.a, a);
        let [x4, x5, x6, x7] = sums(rows.b, b);
        let [c0, c1, c2] = rows.c;
        let [x8, x9, x10, x11] = sums([c0, c1, c2, self.c3], c);
        let [x12, x13, x14, x15] = sums(rows.d, d);
        let former = transposed([x0, x1, x2, x3, x4, x5, x6, x7]);
        for (block, words) in text.iter_mut().zip(former) {
            exclusive_or(block, 0, words);
        }
        let latter = transposed([x8, x9, x10, x11, x12, x13, x14, x15]);
        for (block, words) in text.iter_mut().zip(latter) {
            exclusive_or(block, 32, words);
        }
        beside
    }
}

/// The four rows of the state, of eight blocks: a vector for each word. The last word of the third row is in [`ChaCha20`]: there are sixteen
/// registers for the sixteen words, and rotations need one for themselves.
struct Rows {
    a: [__m256i; 4],
    b: [__m256i; 4],
    c: [__m256i; 3],
    d: [__m256i; 4],
}

/// Half of a round: the four quarter rounds on these words side by side, so that the others go on where one waits for itself. The word that
/// is in memory is in `t` meanwhile, which rotations need then.
macro_rules! half_round {
    ($pattern:literal, $left:literal, $right:literal, $($a:literal $b:literal $c:literal $d:literal),*) => {
        concat!(
            "vmovdqa {t}, ymmword ptr [{cipher} + 64]\n",
            $("vpaddd {", $a, "}, {", $a, "}, {", $b, "}\n",)*
            $("vpxor {", $d, "}, {", $d, "}, {", $a, "}\n",)*
            $("vpshufb {", $d, "}, {", $d, "}, ymmword ptr [{cipher} + ", $pattern, "]\n",)*
            $("vpaddd {", $c, "}, {", $c, "}, {", $d, "}\n",)*
            $("vpxor {", $b, "}, {", $b, "}, {", $c, "}\n",)*
            "vmovdqa ymmword ptr [{cipher} + 64], {t}\n",
            $(
                "vpslld {t}, {", $b, "}, ", $left, "\n",
                "vpsrld {", $b, "}, {", $b, "}, ", $right, "\n",
                "vpor {", $b, "}, {", $b, "}, {t}\n",
            )*
        )
    };
}

/// A round of four quarter rounds. In assembly, since the compiler keeps the patterns of the shuffles in registers, and then has too few for
/// the words: it moves a dozen of them to and fro in each round, on the way that everything waits for.
macro_rules! round {
    ($rows:expr, $cipher:expr, $($words:tt)*) => {{
        let Rows { a: [a0, a1, a2, a3], b: [b0, b1, b2, b3], c: [c0, c1, c2], d: [d0, d1, d2, d3] } = $rows;
        // SAFETY: it reads and writes the first fields of `ChaCha20`, and no other memory; and registers that are named.
        unsafe {
            asm!(
                half_round!("0", "12", "20", $($words)*),
                half_round!("32", "7", "25", $($words)*),
                a0 = inout(ymm_reg) *a0, a1 = inout(ymm_reg) *a1, a2 = inout(ymm_reg) *a2, a3 = inout(ymm_reg) *a3,
                b0 = inout(ymm_reg) *b0, b1 = inout(ymm_reg) *b1, b2 = inout(ymm_reg) *b2, b3 = inout(ymm_reg) *b3,
                c0 = inout(ymm_reg) *c0, c1 = inout(ymm_reg) *c1, c2 = inout(ymm_reg) *c2, t = out(ymm_reg) _,
                d0 = inout(ymm_reg) *d0, d1 = inout(ymm_reg) *d1, d2 = inout(ymm_reg) *d2, d3 = inout(ymm_reg) *d3,
                cipher = in(reg) std::ptr::from_mut::<ChaCha20>($cipher),
                options(nostack, preserves_flags),
            );
        }
    }};
}

impl Rows {
    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn column_round(&mut self, cipher: &mut ChaCha20) {
        round!(self, cipher, "a0" "b0" "c0" "d0", "a1" "b1" "c1" "d1", "a2" "b2" "c2" "d2", "a3" "b3" "t" "d3");
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi2")]
    fn diagonal_round(&mut self, cipher: &mut ChaCha20) {
        round!(self, cipher, "a0" "b1" "c2" "d3", "a1" "b2" "t" "d0", "a2" "b3" "c0" "d1", "a3" "b0" "c1" "d2");
    }
}

/// Words and words.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn sums([m0, m1, m2, m3]: [__m256i; 4], [s0, s1, s2, s3]: [__m256i; 4]) -> [__m256i; 4] {
    [_mm256_add_epi32(m0, s0), _mm256_add_epi32(m1, s1), _mm256_add_epi32(m2, s2), _mm256_add_epi32(m3, s3)]
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

#[cfg(test)]
mod tests {
    use super::{super::super::tests, *};
    use crate::dropped::before_and_after;

    fn assert_that_it_can_be_called() {
        super::super::Kernel::detect().expect("these tests need a processor with AVX2 and BMI2");
    }

    #[test]
    fn the_key_stream_is_rfc_8439s() {
        #[target_feature(enable = "avx2,bmi2")]
        fn make(key: &[u8; 32], counter: u64, first: u32, out: &mut [[u8; BLOCK]; LANES]) {
            ChaCha20::new(key).apply(&Lanes::following(counter, first), Sum::none(), out);
        }
        assert_that_it_can_be_called();
        tests::assert_that_it_is_rfc_8439_appendix_a_1s(|key, counter, number| {
            let mut out = [[0; BLOCK]; LANES];
            // SAFETY: the processor has AVX2 and BMI2.
            unsafe { make(key, counter, number, &mut out) };
            out[0]
        });
    }

    #[test]
    fn of_keys_nothing_is_left_where_they_were() {
        #[target_feature(enable = "avx2,bmi2")]
        fn make() -> ChaCha20 {
            ChaCha20::new(&[7; 32])
        }
        assert_that_it_can_be_called();
        // SAFETY: the processor has AVX2 and BMI2.
        let cipher = unsafe { make() };
        const CIPHER: usize = size_of::<ChaCha20>();
        let [before, after] = before_and_after::<_, CIPHER>(cipher, 0);
        assert_eq!(before[CIPHER - 256..], [7; 256], "each of eight words eight times");
        assert_eq!(after, [0; CIPHER]);
    }
}
