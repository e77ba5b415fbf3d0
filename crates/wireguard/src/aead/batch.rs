//! ChaCha20-Poly1305 of many messages under one key, in one go.
//!
//! Blocks of the key stream are made eight at once, whichever messages they are of, so that none is wasted on short messages or on
//! the ends of long ones. The sums of two messages go on beside that: when sealing, of two that are encrypted already; when opening,
//! of two that are decrypted next. So nothing that is not authentic is ever decrypted.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    Message, TAG,
    chacha20::{self, BLOCK, LANES, Lanes},
    poly1305::{Pair, Poly1305},
};

/// So many messages have their one-time keys at hand.
const AT_ONCE: usize = 64;

/// This processor has what is needed.
#[derive(Clone, Copy)]
pub(super) struct Batch(());

impl Batch {
    /// `None` where something is missing.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")).then_some(Self(()))
    }

    /// `None` also where AWS-LC is as fast: for so few messages that the sums have little to go on beside.
    pub(super) fn worthwhile(messages: &[Message<'_>]) -> Option<Self> {
        let enough = match text(messages.first()?).len() {
            0..=256 | 1024..2048 => 8,
            _ => 16,
        };
        if messages.len() >= enough { Self::detect() } else { None }
    }

    /// Seals the texts in place, each under the counter in its header.
    pub(super) fn seal(self, key: &[u8; 32], messages: &mut [Message<'_>]) {
        // SAFETY: `self` exists only where the processor has AVX2 and BMI2.
        unsafe { seal(key, messages) }
    }

    /// Opens the texts in place, those that are authentic.
    pub(super) fn open(self, key: &[u8; 32], messages: &mut [Message<'_>]) {
        // SAFETY: `self` exists only where the processor has AVX2 and BMI2.
        unsafe { open(key, messages) }
    }
}

#[target_feature(enable = "avx2,bmi2")]
fn seal(key: &[u8; 32], messages: &mut [Message<'_>]) {
    let mut stream = Stream::new(key);
    for messages in messages.chunks_mut(AT_ONCE) {
        messages.iter_mut().for_each(Message::refuse);
        let mut sums = Sums::new(&mut stream, messages);
        let write_tag = |message: &mut Message<'_>, tag| {
            if let Some(room) = message.body.last_chunk_mut() {
                *room = tag;
            }
        };
        let all = messages.len();
        let mut at = Place::default();
        loop {
            // Whatever is before is encrypted.
            let first = at.message;
            let (ready, others) = messages.split_at_mut(first);
            if let Some((lanes, text)) = others.first_mut().and_then(|message| at.take_eight(message)) {
                sums.advance(ready, all, |pair| chacha20::apply(&stream.key, &lanes, pair, text));
                sums.settle(messages, first, write_tag);
                continue;
            }
            let run = Run::from(at, messages, all, |_| true);
            let Some(first) = run.spans().first().map(|span| span.from) else { break };
            let (ready, others) = messages.split_at_mut(first.message);
            sums.advance(ready, all, |pair| stream.go_over(&run, first.message, others, pair));
            sums.settle(messages, first.message, write_tag);
            at = run.end;
        }
        while sums.done < all {
            sums.advance(messages, all, |pair| pair.finish());
            sums.settle(messages, all, write_tag);
        }
    }
}

#[target_feature(enable = "avx2,bmi2")]
fn open(key: &[u8; 32], messages: &mut [Message<'_>]) {
    let mut stream = Stream::new(key);
    for messages in messages.chunks_mut(AT_ONCE) {
        let mut sums = Sums::new(&mut stream, messages);
        let all = messages.len();
        let compare_tag = |message: &mut Message<'_>, tag: [u8; TAG]| {
            message.opened = message.body.last_chunk::<TAG>().is_some_and(|theirs| tag.ct_eq(theirs).into());
        };
        let mut at = Place::default();
        loop {
            // Whatever is from there on is not decrypted yet.
            let (ready, others) = messages.split_at_mut(sums.done);
            let opened = ready.get_mut(at.message).filter(|message| message.opened);
            if let Some((lanes, text)) = opened.and_then(|message| at.take_eight(message)) {
                sums.add(others, |pair| chacha20::apply(&stream.key, &lanes, pair, text));
                sums.settle(messages, all, compare_tag);
                continue;
            }
            let run = Run::from(at, messages, sums.done, |message| message.opened);
            // More may be opened before lanes are left idle.
            if run.free > 1 && sums.done < all {
                sums.advance(messages, all, |pair| pair.finish());
                sums.settle(messages, all, compare_tag);
                continue;
            }
            if run.count == 0 {
                break;
            }
            let (ready, others) = messages.split_at_mut(sums.done);
            sums.add(others, |pair| stream.go_over(&run, 0, ready, pair));
            sums.settle(messages, all, compare_tag);
            at = run.end;
        }
    }
}

/// The key stream.
struct Stream {
    key: Zeroizing<[u32; 8]>,
    /// The blocks that were made last.
    made: Zeroizing<[[u8; BLOCK]; LANES]>,
}

impl Stream {
    fn new(key: &[u8; 32]) -> Self {
        let mut words = Zeroizing::new([0; 8]);
        for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self { key: words, made: Zeroizing::new([[0; BLOCK]; LANES]) }
    }

    /// Encrypts, or decrypts, the blocks of a run, which are of these messages; the first of them has this number.
    #[target_feature(enable = "avx2,bmi2")]
    fn go_over(&mut self, run: &Run, number: usize, messages: &mut [Message<'_>], beside: &mut Pair<'_>) {
        self.make(&run.lanes(number, messages), beside);
        self.apply(run, number, messages);
    }

    #[target_feature(enable = "avx2,bmi2")]
    fn make(&mut self, lanes: &Lanes, beside: &mut Pair<'_>) {
        *self.made = [[0; BLOCK]; LANES];
        chacha20::apply(&self.key, lanes, beside, &mut self.made);
    }

    /// Encrypts, or decrypts, what the blocks were made for.
    #[target_feature(enable = "avx2,bmi2")]
    fn apply(&self, run: &Run, number: usize, messages: &mut [Message<'_>]) {
        let mut made = self.made.as_slice();
        for span in run.spans() {
            let (blocks, others) = made.split_at_checked(span.blocks).unwrap_or_default();
            made = others;
            let with = blocks.as_flattened().as_chunks().0;
            let Some(message) = messages.get_mut(span.from.message - number) else { continue };
            // To a multiple of 16 bytes: the tag's room takes what is too much.
            let text = message.body.get_mut(span.from.block * BLOCK..).unwrap_or_default();
            for (text, with) in text.as_chunks_mut().0.iter_mut().zip(with) {
                *text = (u128::from_ne_bytes(*text) ^ u128::from_ne_bytes(*with)).to_ne_bytes();
            }
        }
    }
}

/// A block of a message's text.
#[derive(Clone, Copy, Default)]
struct Place {
    message: usize,
    block: usize,
}

impl Place {
    /// The next eight blocks, where the message here has so many whole ones left, which is most of a long text. Needs no [`Run`].
    #[target_feature(enable = "avx2,bmi2")]
    fn take_eight<'a>(
        &mut self,
        message: &'a mut Message<'_>,
    ) -> Option<(Lanes, &'a mut [[u8; BLOCK]; LANES])> {
        let (text, _) = message.body.split_last_chunk_mut::<TAG>()?;
        let length = text.len();
        let text = text.as_chunks_mut().0.get_mut(self.block..)?.first_chunk_mut()?;
        let lanes = Lanes::following(message.parsed.counter, stream_block(self.block));
        self.block += LANES;
        if self.block * BLOCK >= length {
            *self = Self { message: self.message + 1, block: 0 };
        }
        Some((lanes, text))
    }
}

/// Blocks of one text, one behind the other.
#[derive(Clone, Copy, Default)]
struct Span {
    from: Place,
    blocks: usize,
}

/// Blocks that are made at once.
struct Run {
    spans: [Span; LANES],
    count: usize,
    /// So many lanes are idle.
    free: usize,
    /// What comes next.
    end: Place,
}

impl Run {
    /// Blocks from a place on, of one long text or of several short ones, in those of the first `limit` messages that are wanted.
    #[inline]
    fn from(
        start: Place,
        messages: &[Message<'_>],
        limit: usize,
        wanted: impl Fn(&Message<'_>) -> bool,
    ) -> Self {
        let mut run = Self { spans: Default::default(), count: 0, free: LANES, end: start };
        let messages = messages.get(..limit).and_then(|messages| messages.get(start.message..));
        for message in messages.unwrap_or_default() {
            let from = run.end;
            let all = if wanted(message) { text(message).len().div_ceil(BLOCK) } else { 0 };
            let left = all - from.block.min(all);
            // A single lane is not worth that the rest of a long text is out of step.
            if run.free == 1 && left > LANES {
                break;
            }
            let blocks = left.min(run.free);
            if let Some(span) = run.spans.get_mut(run.count).filter(|_| blocks > 0) {
                *span = Span { from, blocks };
                run.count += 1;
            }
            run.free -= blocks;
            if blocks < left {
                run.end.block += blocks;
                break;
            }
            run.end = Place { message: from.message + 1, block: 0 };
        }
        run
    }

    fn spans(&self) -> &[Span] {
        self.spans.get(..self.count).unwrap_or_default()
    }

    #[target_feature(enable = "avx2,bmi2")]
    fn lanes(&self, number: usize, messages: &[Message<'_>]) -> Lanes {
        let nonce = |message| {
            messages.get(message - number).map_or(0, |message: &Message<'_>| message.parsed.counter)
        };
        if let [Span { from, .. }] = self.spans() {
            return Lanes::following(nonce(from.message), stream_block(from.block));
        }
        let mut lanes = [(0, 0); LANES];
        let blocks = self.spans().iter().flat_map(|span| {
            let nonce = nonce(span.from.message);
            (span.from.block..).take(span.blocks).map(move |block| (nonce, stream_block(block)))
        });
        lanes.iter_mut().zip(blocks).for_each(|(lane, block)| *lane = block);
        Lanes::of(lanes)
    }
}

/// The sums of messages, two at a time.
struct Sums {
    /// One for each message, and two more, so that there always is a pair.
    sums: [Poly1305; AT_ONCE + 2],
    /// So many messages have their tag.
    done: usize,
    /// So many blocks were added of each of the next two.
    added: usize,
    /// All of them were.
    ended: bool,
}

impl Sums {
    /// Sums under the one-time keys of so many messages.
    #[target_feature(enable = "avx2,bmi2")]
    fn new(stream: &mut Stream, messages: &[Message<'_>]) -> Self {
        let mut sums = [const { Poly1305::unkeyed() }; AT_ONCE + 2];
        for (messages, sums) in messages.chunks(LANES).zip(sums.chunks_mut(LANES)) {
            let mut lanes = [(0, 0); LANES];
            for (lane, message) in lanes.iter_mut().zip(messages) {
                *lane = (message.parsed.counter, 0);
            }
            let lanes = Lanes::of(lanes);
            let mut none = [const { Poly1305::unkeyed() }; 2];
            stream.make(&lanes, &mut Pair::new(&mut none, [&[], &[]]));
            for ((sum, block), _) in sums.iter_mut().zip(stream.made.iter()).zip(messages) {
                if let Some(key) = block.first_chunk() {
                    *sum = Poly1305::new(key);
                }
            }
        }
        Self { sums, done: 0, added: 0, ended: false }
    }

    /// Lets `go_on` add to the next two sums, where the texts of both are among those that are ready; of `all` messages.
    #[inline]
    fn advance(&mut self, ready: &[Message<'_>], all: usize, go_on: impl FnOnce(&mut Pair<'_>)) {
        let next = self.next(all, ready.len());
        self.add(ready.get(next).unwrap_or_default(), go_on);
    }

    /// Lets `go_on` add the first two texts, or the only one, to the next sums.
    #[inline]
    fn add(&mut self, next: &[Message<'_>], go_on: impl FnOnce(&mut Pair<'_>)) {
        let mut blocks = [&[] as &[[u8; 16]]; 2];
        for (blocks, message) in blocks.iter_mut().zip(next) {
            *blocks = text(message).as_chunks().0.get(self.added..).unwrap_or_default();
        }
        let Some(sums) = self.sums.get_mut(self.done..).and_then(|sums| sums.first_chunk_mut()) else {
            return;
        };
        let mut pair = Pair::new(sums, blocks);
        let before = pair.left();
        go_on(&mut pair);
        self.added += before - pair.left();
        self.ended = pair.end() && !next.is_empty();
    }

    /// Gives the tags of the next messages, if all of their texts was added.
    #[inline]
    fn settle(
        &mut self,
        messages: &mut [Message<'_>],
        ready: usize,
        mut give: impl FnMut(&mut Message<'_>, [u8; TAG]),
    ) {
        let next = self.next(messages.len(), ready);
        let Some(pair) = messages.get_mut(next) else { return };
        if !std::mem::take(&mut self.ended) {
            return;
        }
        for (message, sum) in pair.iter_mut().zip(self.sums.iter_mut().skip(self.done)) {
            let text = text(message);
            sum.padded(text.as_chunks::<16>().1);
            sum.lengths(0, text.len());
            give(message, sum.tag());
        }
        self.done += pair.len();
        self.added = 0;
    }

    /// The next messages: two, unless only one is left; none where they are not ready.
    fn next(&self, all: usize, ready: usize) -> std::ops::Range<usize> {
        let end = (self.done + 2).min(all);
        if end <= ready { self.done..end } else { self.done..self.done }
    }
}

/// The text of a message, sealed or not.
fn text<'a>(message: &'a Message<'_>) -> &'a [u8] {
    message.body.split_last_chunk::<TAG>().map_or(&[], |(text, _)| text)
}

/// The number of a block of a text: the first block of a message is its one-time key.
fn stream_block(block: usize) -> u32 {
    u32::try_from(block + 1).unwrap_or(u32::MAX)
}
