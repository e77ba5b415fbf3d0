//! Sums of whole blocks, in 64-bit words, beside other work.
//!
//! No branch and no address depends on a key or on a text.

use std::slice::Iter;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::super::poly1305::{BLOCK, tag, words};

/// A sum under a one-time key.
#[derive(ZeroizeOnDrop)]
pub(super) struct Poly1305 {
    state: State,
    /// What is added at the end.
    pad: [u64; 2],
}

#[derive(Clone, Copy, Zeroize)]
struct State {
    /// The accumulator, below 2^130 + 2^66: `h[2]` has a few bits.
    h: [u64; 3],
    /// The multiplier, clamped: the upper four bits of each word and the lower two of the second are zero.
    r: [u64; 2],
    /// r\[1\] · 5/4: what r\[1\] · 2^128 is, modulo 2^130 − 5.
    s: u64,
}

impl Poly1305 {
    /// A sum under no key.
    pub(super) const fn unkeyed() -> Self {
        Self { state: State::UNKEYED, pad: [0; 2] }
    }

    /// A sum of nothing under a one-time key.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let [r0, r1, pad0, pad1] = words(key);
        let r = [r0 & 0x0fff_fffc_0fff_ffff, r1 & 0x0fff_fffc_0fff_fffc];
        Self { state: State { h: [0; 3], r, s: r[1] + (r[1] >> 2) }, pad: [pad0, pad1] }
    }

    /// What adds blocks to this sum; [`Self::resume`] takes them over.
    pub(super) fn adding<'a>(&self, blocks: &'a [[u8; BLOCK]]) -> Sum<'a> {
        Sum { state: self.state, blocks: blocks.iter() }
    }

    /// Goes on from what blocks were added to.
    pub(super) fn resume(&mut self, sum: &Sum<'_>) {
        self.state.h = sum.state.h;
    }

    /// Adds the first bytes of a block, fewer than all, padded with zeros to a whole one.
    pub(super) fn padded(&mut self, block: &[u8; BLOCK], bytes: usize) {
        let wanted = (1_u128 << (8 * (bytes % BLOCK))) - 1;
        self.state.block(&(u128::from_le_bytes(*block) & wanted).to_le_bytes());
    }

    /// Adds the lengths of associated data and text.
    pub(super) fn lengths(&mut self, associated: usize, text: usize) {
        self.state.add(associated as u64, text as u64);
    }

    /// The tag.
    pub(super) fn tag(&self) -> [u8; BLOCK] {
        tag(self.state.h, self.pad)
    }
}

impl State {
    const UNKEYED: Self = Self { h: [0; 3], r: [0; 2], s: 0 };

    #[inline(always)]
    fn block(&mut self, block: &[u8; BLOCK]) {
        let [m0, m1] = words(block);
        self.add(m0, m1);
    }

    /// h = (h + m + 2^128) · r, modulo 2^130 − 5, not fully reduced.
    #[inline(always)]
    fn add(&mut self, m0: u64, m1: u64) {
        let ([h0, h1, h2], [r0, r1], s) = (self.h, self.r, self.s);
        let (h0, carry) = h0.carrying_add(m0, false);
        let (h1, carry) = h1.carrying_add(m1, carry);
        let h2 = h2 + 1 + u64::from(carry);
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        // Neither sum overflows, since r0, r1 and s are below 2^61, and h2 is a few bits.
        let d0 = wide(h0, r0) + wide(h1, s);
        let d1 = wide(h0, r1) + wide(h1, r0) + u128::from(h2 * s) + (d0 >> 64);
        let d2 = h2 * r0 + (d1 >> 64) as u64;
        // What is above 2^130 counts five times, below.
        let (h0, carry) = (d0 as u64).carrying_add((d2 >> 2) * 5, false);
        let (h1, carry) = (d1 as u64).carrying_add(0, carry);
        self.h = [h0, h1, (d2 & 3) + u64::from(carry)];
    }
}

/// A sum to which blocks are added step by step, beside other work.
pub(super) struct Sum<'a> {
    state: State,
    /// What is still to be added.
    blocks: Iter<'a, [u8; BLOCK]>,
}

impl Sum<'_> {
    /// Nothing is added to it.
    pub(super) fn none() -> Self {
        Self { state: State::UNKEYED, blocks: [].iter() }
    }

    /// Adds some blocks, or as many as there are.
    #[inline(always)]
    pub(super) fn advance(&mut self, blocks: usize) {
        for _ in 0..blocks {
            let Some(block) = self.blocks.next() else { return };
            self.state.block(block);
        }
    }

    /// How many blocks are still to be added.
    pub(super) fn left(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::tests, *};
    use crate::dropped::before_and_after;

    fn poly1305(key: &[u8; 32], whole_blocks: &[u8]) -> [u8; BLOCK] {
        let mut sum = Poly1305::new(key);
        let mut adding = sum.adding(whole_blocks.as_chunks().0);
        adding.advance(usize::MAX);
        sum.resume(&adding);
        sum.tag()
    }

    #[test]
    fn sums_are_rfc_8439s() {
        tests::assert_that_they_are_rfc_8439_appendix_a_3s(poly1305);
    }

    proptest! {
        #[test]
        fn sums_of_any_blocks_are_those_of_the_slow_way(key: [u8; 32], blocks in prop::collection::vec(any::<[u8; 16]>(), 0..40)) {
            prop_assert_eq!(poly1305(&key, blocks.as_flattened()), tests::slow_poly1305(&key, &blocks));
        }
    }

    #[test]
    fn of_keys_nothing_is_left_where_they_were() {
        let mut sum = Poly1305::new(&[7; 32]);
        sum.lengths(3, 4);
        let [before, after] = before_and_after::<_, 64>(sum, 0);
        assert!(before.chunks(8).all(|word| word != [0; 8]), "accumulator, multiplier and pad");
        assert_eq!(after, [0; 64]);
    }
}
