//! Poly1305 (RFC 8439, section 2.5) of eight messages at once, each under a key of its own, by the multipliers of 52 bits.
//!
//! With r, r², r³ and r⁴ at hand, carries are added once in four blocks:
//! ((((h + a)·r + b)·r + c)·r + d)·r = (h + a)·r⁴ + b·r³ + c·r² + d·r.
//!
//! No branch and no address depends on a key or on a text.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mask_mov_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_shrdi_epi64, _mm512_slli_epi64,
    _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    super::poly1305::{BLOCK, tag, words},
    vector,
};

/// So many messages at once.
pub(super) const LANES: usize = 8;

/// So many blocks are read of each text at once.
const BLOCKS: usize = vector::BYTES / BLOCK;

/// The sums of eight messages.
#[derive(ZeroizeOnDrop)]
pub(super) struct Sums {
    sums: Number,
    /// r⁴, r³, r² and r.
    factors: [Factor; BLOCKS],
    /// What is added at the end, in words.
    pads: [__m512i; 2],
}

impl Sums {
    /// Sums of nothing, under the one-time keys that these blocks begin with.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn new(keys: &[__m512i; LANES]) -> Self {
        let [low, high, pad0, pad1, ..] = transposed(*keys);
        let clamped = Number::of_words(
            _mm512_and_si512(low, all(0x0fff_fffc_0fff_ffff)),
            _mm512_and_si512(high, all(0x0fff_fffc_0fff_fffc)),
            0,
        );
        let r = Factor::new(clamped);
        let square = clamped.times(&r);
        let cube = square.times(&r);
        let fourth = Factor::new(cube.times(&r));
        let factors = [fourth, Factor::new(cube), Factor::new(square), r];
        Self { sums: Number::zero(), factors, pads: [pad0, pad1] }
    }

    /// Adds a text to each sum, padded with zeros to whole blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn add(&mut self, mut texts: [&[u8]; LANES]) {
        while texts.iter().any(|text| text.len() >= vector::BYTES) {
            self.add_fours(&mut texts);
        }
        self.add_ends(texts);
    }

    /// Adds the lengths of no associated data and of a text to each sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn add_lengths(&mut self, texts: [&[u8]; LANES]) {
        let mut lengths = [0; vector::BYTES];
        for (length, text) in lengths.as_chunks_mut().0.iter_mut().zip(texts) {
            *length = (text.len() as u64).to_le_bytes();
        }
        self.add_block(u8::MAX, Number::of_words(all(0), vector::load(&lengths), WHOLE));
    }

    /// Adds the first four blocks of each text that has as many.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn add_fours(&mut self, texts: &mut [&[u8]; LANES]) {
        let mut rows = [all(0); LANES];
        let mut lanes = 0;
        for (number, (row, text)) in rows.iter_mut().zip(texts).enumerate() {
            if let Some((chunk, others)) = text.split_first_chunk() {
                *row = vector::load(chunk);
                *text = others;
                lanes |= 1 << number;
            }
        }
        let [a, b, c, d] = blocks(rows);
        let [r4, r3, r2, r] = &self.factors;
        let mut product = Product::zero();
        product.add(d, r);
        product.add(c, r2);
        product.add(b, r3);
        product.add(self.sums.plus(a), r4);
        self.sums = self.sums.or(lanes, product.reduced());
    }

    /// Adds texts of fewer than 64 bytes.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn add_ends(&mut self, texts: [&[u8]; LANES]) {
        let mut rows = [all(0); LANES];
        for (row, text) in rows.iter_mut().zip(texts).filter(|(_, text)| !text.is_empty()) {
            *row = vector::load_some(text);
        }
        for (number, block) in blocks(rows).into_iter().enumerate() {
            let has_it = |text: &[u8]| u8::from(text.len() > number * BLOCK);
            let lanes = texts.iter().rev().fold(0, |lanes, text| (lanes << 1) | has_it(text));
            if lanes != 0 {
                self.add_block(lanes, block);
            }
        }
    }

    /// Adds a block to each of some sums.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn add_block(&mut self, lanes: u8, block: Number) {
        let [.., r] = &self.factors;
        self.sums = self.sums.or(lanes, self.sums.plus(block).times(r));
    }

    /// The tags.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn tags(&self) -> [[u8; BLOCK]; LANES] {
        let words = |vector| {
            let mut bytes = Zeroizing::new([0; vector::BYTES]);
            vector::store(&mut bytes, vector);
            Zeroizing::new(words(&bytes))
        };
        let [h0, h1, h2]: [Zeroizing<[u64; LANES]>; 3] = self.sums.0.map(words);
        let [pad0, pad1] = self.pads.map(words);
        std::array::from_fn(|lane| {
            // The sum as it is, whatever is still to be carried between its limbs: below 2^130 + 2^54.
            let low = u128::from(h0[lane]) + (u128::from(h1[lane]) << 44);
            let (low, carry) = low.overflowing_add(u128::from(h2[lane]) << 88);
            let high = (h2[lane] >> 40) + u64::from(carry);
            tag([low as u64, (low >> 64) as u64, high], [pad0[lane], pad1[lane]])
        })
    }
}

/// A number of each message in limbs that stand at 1, 2^44 and 2^88. They have 44, 44 and 42 bits, and a few more until carries are added
/// ([`Product::reduced`]).
#[derive(Clone, Copy, Zeroize)]
struct Number([__m512i; 3]);

/// The bit above a whole block, in its last limb.
const WHOLE: u64 = 1 << (128 - 88);

impl Number {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn zero() -> Self {
        Self([all(0); 3])
    }

    /// Of 128 bits in two words, and what else is in the last limb.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn of_words(low: __m512i, high: __m512i, above: u64) -> Self {
        Self([
            _mm512_and_si512(low, all(LIMB)),
            _mm512_and_si512(_mm512_shrdi_epi64::<44>(low, high), all(LIMB)),
            _mm512_or_si512(_mm512_srli_epi64::<24>(high), all(above)),
        ])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn plus(self, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);
        Self([_mm512_add_epi64(a0, b0), _mm512_add_epi64(a1, b1), _mm512_add_epi64(a2, b2)])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn times(self, factor: &Factor) -> Self {
        let mut product = Product::zero();
        product.add(self, factor);
        product.reduced()
    }

    /// The other number in some lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn or(self, lanes: u8, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);
        Self([
            _mm512_mask_mov_epi64(a0, lanes, b0),
            _mm512_mask_mov_epi64(a1, lanes, b1),
            _mm512_mask_mov_epi64(a2, lanes, b2),
        ])
    }
}

const LIMB: u64 = (1 << 44) - 1;
const LAST_LIMB: u64 = (1 << 42) - 1;

/// What is multiplied by.
#[derive(Clone, Copy, Zeroize)]
struct Factor {
    limbs: [__m512i; 3],
    /// The second and the third limb times 20: a product of limbs that stands at 2^132 counts as much, modulo 2^130 − 5, at 1.
    twenty: [__m512i; 2],
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn new(number: Number) -> Self {
        let twenty = |limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb));
        let limbs = number.0;
        let [_, r1, r2] = limbs;
        Self { limbs, twenty: [twenty(r1), twenty(r2)] }
    }
}

/// A sum of products: for each limb the lower 52 bits of products of limbs, and the upper ones.
struct Product {
    lower: [__m512i; 3],
    upper: [__m512i; 3],
}

impl Product {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn zero() -> Self {
        Self { lower: [all(0); 3], upper: [all(0); 3] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn add(&mut self, number: Number, factor: &Factor) {
        let [h0, h1, h2] = number.0;
        let Factor { limbs: [r0, r1, r2], twenty: [s1, s2] } = *factor;
        let products =
            [[(h0, r0), (h1, s2), (h2, s1)], [(h0, r1), (h1, r0), (h2, s2)], [(h0, r2), (h1, r1), (h2, r0)]];
        for ((lower, upper), products) in self.lower.iter_mut().zip(&mut self.upper).zip(products) {
            for (a, b) in products {
                *lower = _mm512_madd52lo_epu64(*lower, a, b);
                *upper = _mm512_madd52hi_epu64(*upper, a, b);
            }
        }
    }

    /// The sum modulo 2^130 − 5, in limbs below 2^44, 2^44 + 2^9 and 2^42.
    ///
    /// Nothing overflows. At most four products are added, of numbers that are a sum from here and a block, below 2^45, 2^45 + 2^9 and 2^43 in their limbs, and of factors
    /// from here, below 2^44, 2^44 + 2^9 and 2^42, and below 2^49 and 2^47 times 20: all within the 52 bits that are multiplied. Of twelve products of limbs each, `lower` is then
    /// below 2^56, and `upper` below 2^43, 2^41 and 2^40. So what counts five times is below 2^50, `h0` below 2^53 before its own carry, and that carry below 2^9, as was assumed.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn reduced(self) -> Number {
        let ([d0, d1, d2], [e0, e1, e2]) = (self.lower, self.upper);
        // What is above 2^52 stands at 2^44 · 2^8.
        let carried = _mm512_add_epi64(_mm512_srli_epi64::<44>(d0), _mm512_slli_epi64::<8>(e0));
        let d1 = _mm512_add_epi64(d1, carried);
        let carried = _mm512_add_epi64(_mm512_srli_epi64::<44>(d1), _mm512_slli_epi64::<8>(e1));
        let d2 = _mm512_add_epi64(d2, carried);
        // What is above 2^130 counts five times.
        let above = _mm512_add_epi64(_mm512_srli_epi64::<42>(d2), _mm512_slli_epi64::<10>(e2));
        let fives = _mm512_add_epi64(above, _mm512_slli_epi64::<2>(above));
        let h0 = _mm512_add_epi64(_mm512_and_si512(d0, all(LIMB)), fives);
        let h1 = _mm512_add_epi64(_mm512_and_si512(d1, all(LIMB)), _mm512_srli_epi64::<44>(h0));
        Number([_mm512_and_si512(h0, all(LIMB)), h1, _mm512_and_si512(d2, all(LAST_LIMB))])
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn all(word: u64) -> __m512i {
    _mm512_set1_epi64(word.cast_signed())
}

/// The four blocks of each row as numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn blocks(rows: [__m512i; LANES]) -> [Number; BLOCKS] {
    let [a0, a1, b0, b1, c0, c1, d0, d1] = transposed(rows);
    [
        Number::of_words(a0, a1, WHOLE),
        Number::of_words(b0, b1, WHOLE),
        Number::of_words(c0, c1, WHOLE),
        Number::of_words(d0, d1, WHOLE),
    ]
}

/// Rows for columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn transposed(rows: [__m512i; 8]) -> [__m512i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    // The words of even columns, and those of odd ones, of two rows each.
    let even = [
        _mm512_unpacklo_epi64(a, b),
        _mm512_unpacklo_epi64(c, d),
        _mm512_unpacklo_epi64(e, f),
        _mm512_unpacklo_epi64(g, h),
    ];
    let odd = [
        _mm512_unpackhi_epi64(a, b),
        _mm512_unpackhi_epi64(c, d),
        _mm512_unpackhi_epi64(e, f),
        _mm512_unpackhi_epi64(g, h),
    ];
    let [c0, c2, c4, c6] = vector::by_quarters(even);
    let [c1, c3, c5, c7] = vector::by_quarters(odd);
    [c0, c1, c2, c3, c4, c5, c6, c7]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::tests, *};
    use crate::dropped::before_and_after;

    /// The sums of whole blocks. The keys are in vectors as the key stream has them.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn sums(keys: [[u8; 32]; LANES], texts: [&[u8]; LANES]) -> Sums {
        let mut sums = Sums::new(&keys.map(|key| vector::load_some(&key)));
        sums.add(texts);
        sums
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn poly1305(keys: [[u8; 32]; LANES], texts: [&[u8]; LANES]) -> [[u8; BLOCK]; LANES] {
        sums(keys, texts).tags()
    }

    #[test]
    fn sums_are_rfc_8439s() {
        if tests::avx512().is_some() {
            tests::assert_that_they_are_rfc_8439_appendix_a_3s(|key, text| {
                // SAFETY: the processor has AVX-512.
                let tags = unsafe { poly1305([*key; LANES], [text; LANES]) };
                assert_eq!(tags, [tags[0]; LANES], "in every lane");
                tags[0]
            });
        }
    }

    proptest! {
        #[test]
        fn sums_of_any_blocks_are_those_of_the_slow_way(
            keys in prop::array::uniform8(prop_oneof![any::<[u8; 32]>(), Just([0xff; 32])]),
            texts in prop::array::uniform8(prop::collection::vec(prop_oneof![any::<[u8; BLOCK]>(), Just([0xff; BLOCK])], 0..40)),
        ) {
            if tests::avx512().is_some() {
                // SAFETY: the processor has AVX-512.
                let tags = unsafe { poly1305(keys, texts.each_ref().map(|blocks| blocks.as_flattened())) };
                for ((tag, key), blocks) in tags.iter().zip(keys).zip(&texts) {
                    prop_assert_eq!(*tag, tests::slow_poly1305(&key, blocks));
                }
            }
        }
    }

    #[test]
    fn of_keys_and_sums_nothing_is_left_where_they_were() {
        if tests::avx512().is_some() {
            // SAFETY: the processor has AVX-512.
            let sums = unsafe { sums([[7; 32]; LANES], [&[7; 16]; LANES]) };
            const SUMS: usize = size_of::<Sums>();
            let [before, after] = before_and_after::<_, SUMS>(sums, 0);
            assert!(before.chunks(8).all(|word| word != [0; 8]), "every limb of every number");
            assert_eq!(after, [0; SUMS]);
        }
    }
}
