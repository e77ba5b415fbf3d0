//! ChaCha20 (RFC 8439, section 2.3): sixteen blocks at once, each of any message.

use std::{
    arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_mask_mov_epi32, _mm512_rol_epi32, _mm512_set1_epi32,
        _mm512_setr_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
        _mm512_unpacklo_epi64, _mm512_xor_si512,
    },
    slice::ChunksMut,
};

use zeroize::ZeroizeOnDrop;

use super::{
    super::{BLOCK, CONSTANTS},
    vector,
};

/// So many blocks at once.
pub(super) const LANES: usize = 16;

/// The key stream under a key.
#[derive(ZeroizeOnDrop)]
pub(super) struct Stream {
    /// The second and the third row of the state.
    key: [[u32; 4]; 2],
    /// The blocks that were made last.
    made: [__m512i; LANES],
}

/// Blocks of the key stream that are still to be made, and what they are for.
pub(super) struct Lanes<'a> {
    /// The number of each block.
    numbers: __m512i,
    /// The lower and the upper half of its nonce, behind four zero bytes.
    nonces: [__m512i; 2],
    /// A text of at most a block for each lane that is taken.
    texts: [&'a mut [u8]; LANES],
    taken: usize,
}

impl<'a> Lanes<'a> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn new() -> Self {
        Self {
            numbers: all(0),
            nonces: [all(0); 2],
            texts: std::array::from_fn(|_| Default::default()),
            taken: 0,
        }
    }

    /// Takes as many blocks of a text as lanes are free, and says how many. The first one has this number.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    fn take(&mut self, nonce: u64, number: u32, blocks: &mut ChunksMut<'a, u8>) -> u32 {
        let taken = self.taken as u32;
        // Of a lane that is free until the next text, it does not matter what it has.
        let free = u16::MAX << taken;
        let counted = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let numbers = _mm512_add_epi32(counted, all(number.wrapping_sub(taken)));
        let [low, high] = self.nonces;
        self.numbers = _mm512_mask_mov_epi32(self.numbers, free, numbers);
        self.nonces = [
            _mm512_mask_mov_epi32(low, free, all(nonce as u32)),
            _mm512_mask_mov_epi32(high, free, all((nonce >> 32) as u32)),
        ];
        let lanes = self.texts.get_mut(self.taken..).unwrap_or_default();
        let count = lanes.len().min(blocks.len());
        lanes.iter_mut().zip(blocks).for_each(|(lane, block)| *lane = block);
        self.taken += count;
        count as u32
    }
}

impl Stream {
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let mut words = [[0; 4]; 2];
        for (word, bytes) in words.as_flattened_mut().iter_mut().zip(key.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self { key: words, made: [all(0); LANES] }
    }

    /// Exclusive or of a text and its key stream. Blocks that do not fill all lanes are left to the next text, or to [`Self::flush`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn apply<'a>(&mut self, lanes: &mut Lanes<'a>, nonce: u64, text: &'a mut [u8]) {
        let mut blocks = text.chunks_mut(BLOCK);
        // The first block of a message is its one-time key.
        let mut number = 1;
        while blocks.len() > 0 {
            number += lanes.take(nonce, number, &mut blocks);
            if lanes.taken == LANES {
                self.flush(lanes);
            }
        }
    }

    /// Exclusive or of what is left and the key stream.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn flush(&mut self, lanes: &mut Lanes<'_>) {
        if lanes.taken > 0 {
            make(&self.key, lanes.numbers, lanes.nonces, &mut self.made);
            for (text, block) in lanes.texts.iter_mut().zip(&self.made).take(lanes.taken) {
                exclusive_or(text, *block);
            }
            lanes.taken = 0;
        }
    }

    /// Makes the first blocks of sixteen messages.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn make_first(&self, nonces: [u64; LANES], made: &mut [__m512i; LANES]) {
        let low = vector::of_words(nonces.map(|nonce| nonce as u32));
        let high = vector::of_words(nonces.map(|nonce| (nonce >> 32) as u32));
        make(&self.key, all(0), [low, high], made);
    }
}

/// Makes sixteen blocks of the key stream, by their numbers and the halves of their nonces.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn make(key: &[[u32; 4]; 2], numbers: __m512i, [low, high]: [__m512i; 2], made: &mut [__m512i; LANES]) {
    let [b, c] = *key;
    let start = [
        CONSTANTS.map(|word| all(word)),
        b.map(|word| all(word)),
        c.map(|word| all(word)),
        [numbers, all(0), low, high],
    ];
    let mut state = start;
    for _ in 0..10 {
        state = double_round(state);
    }
    let mut words = [all(0); 16];
    for ((word, state), start) in words.iter_mut().zip(state.as_flattened()).zip(start.as_flattened()) {
        *word = _mm512_add_epi32(*state, *start);
    }
    *made = transposed(words);
}

/// The four rows of the state, of sixteen blocks: a vector for each word.
type State = [[__m512i; 4]; 4];

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn all(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

/// Two rounds: the four quarter rounds on columns side by side, and those on diagonals.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn double_round(state: State) -> State {
    let [a, [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]] = round(state);
    let [a, [b1, b2, b3, b0], [c2, c3, c0, c1], [d3, d0, d1, d2]] =
        round([a, [b1, b2, b3, b0], [c2, c3, c0, c1], [d3, d0, d1, d2]]);
    [a, [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn round(state: State) -> State {
    half_round::<8, 7>(half_round::<16, 12>(state))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn half_round<const D: i32, const B: i32>([mut a, mut b, mut c, mut d]: State) -> State {
    for (((a, b), c), d) in a.iter_mut().zip(&mut b).zip(&mut c).zip(&mut d) {
        *a = _mm512_add_epi32(*a, *b);
        *d = _mm512_rol_epi32::<D>(_mm512_xor_si512(*d, *a));
        *c = _mm512_add_epi32(*c, *d);
        *b = _mm512_rol_epi32::<B>(_mm512_xor_si512(*b, *c));
    }
    [a, b, c, d]
}

/// Rows for columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = rows;
    // Of each four rows: four vectors, of which each quarter has the words of one column.
    let [a, b, c, d] = quarters(a, b, c, d);
    let [e, f, g, h] = quarters(e, f, g, h);
    let [i, j, k, l] = quarters(i, j, k, l);
    let [m, n, o, p] = quarters(m, n, o, p);
    let [c0, c4, c8, c12] = vector::by_quarters([a, e, i, m]);
    let [c1, c5, c9, c13] = vector::by_quarters([b, f, j, n]);
    let [c2, c6, c10, c14] = vector::by_quarters([c, g, k, o]);
    let [c3, c7, c11, c15] = vector::by_quarters([d, h, l, p]);
    [c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15]
}

/// Rows for columns in each four by four words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn quarters(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let (ab0, ab1) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd0, cd1) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab0, cd0),
        _mm512_unpackhi_epi64(ab0, cd0),
        _mm512_unpacklo_epi64(ab1, cd1),
        _mm512_unpackhi_epi64(ab1, cd1),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn exclusive_or(text: &mut [u8], block: __m512i) {
    if let Ok(whole) = <&mut [u8; BLOCK]>::try_from(&mut *text) {
        vector::store(whole, _mm512_xor_si512(vector::load(whole), block));
    } else {
        vector::store_some(text, _mm512_xor_si512(vector::load_some(text), block));
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::{super::super::tests, *};
    use crate::dropped::before_and_after;

    #[test]
    fn the_key_stream_is_rfc_8439s() {
        #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
        fn block(key: &[u8; 32], nonce: u64, number: u32) -> [u8; BLOCK] {
            let mut blocks = [all(0); LANES];
            make(
                &Stream::new(key).key,
                all(number),
                [all(nonce as u32), all((nonce >> 32) as u32)],
                &mut blocks,
            );
            let mut bytes = [[0; BLOCK]; LANES];
            for (bytes, block) in bytes.iter_mut().zip(blocks) {
                vector::store(bytes, block);
            }
            assert_eq!(bytes, [bytes[0]; LANES], "in every lane");
            bytes[0]
        }
        if tests::avx512().is_some() {
            tests::assert_that_it_is_rfc_8439_appendix_a_1s(|key, nonce, number| {
                // SAFETY: the processor has AVX-512.
                unsafe { block(key, nonce, number) }
            });
        }
    }

    #[test]
    fn of_keys_and_blocks_nothing_is_left_where_they_were() {
        #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
        fn used() -> Stream {
            let mut stream = Stream::new(&[7; 32]);
            let mut lanes = Lanes::new();
            let mut text = [0; BLOCK];
            stream.apply(&mut lanes, 1, &mut text);
            stream.flush(&mut lanes);
            stream
        }
        if tests::avx512().is_some() {
            // SAFETY: the processor has AVX-512.
            let [before, after] = before_and_after::<_, 32>(unsafe { used() }, offset_of!(Stream, key));
            assert_eq!((before, after), ([7; 32], [0; 32]));
            const MADE: usize = LANES * BLOCK;
            // SAFETY: the processor has AVX-512.
            let [before, after] = before_and_after::<_, MADE>(unsafe { used() }, offset_of!(Stream, made));
            assert!(before.chunks(BLOCK).all(|block| block != [0; BLOCK]));
            assert_eq!(after, [0; MADE]);
        }
    }
}
