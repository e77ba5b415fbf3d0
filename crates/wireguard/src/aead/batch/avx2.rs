//! With AVX2.
//!
//! Blocks of the key stream are made eight at once, whichever messages they are of, so that none is wasted on short messages or on
//! the ends of long ones. The sum of a message goes on beside that: when sealing, of one that is encrypted already; when opening, of the
//! next one to be decrypted. So nothing that is not authentic is ever decrypted.

mod chacha20;
mod poly1305;

use std::ops::Range;

use zeroize::Zeroizing;

use self::{
    chacha20::{ChaCha20, LANES, Lanes},
    poly1305::{Poly1305, Sum},
};
use super::{
    super::{Message, TAG},
    BLOCK, compare_tag,
    poly1305::BLOCK as SUMMED,
    write_tag,
};

/// So many messages have their one-time keys at hand.
const AT_ONCE: usize = 64;

/// So many messages are worth it (`examples/aead.rs`): of fewer, the sums have little to go on beside.
pub(super) const FEW: usize = 8;

/// So many blocks are not left to be summed beside something else.
const LITTLE: usize = 8;

/// This processor has what is needed.
#[derive(Clone, Copy, Debug)]
pub(in crate::aead) struct Kernel(());

impl Kernel {
    /// `None` where something is missing.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")).then_some(Self(()))
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
        let mut sums = Sums::new(&mut stream, messages);
        let mut at = Place::default();
        loop {
            // Whatever is before is encrypted.
            let (ready, others) = messages.split_at_mut(at.message);
            if let Some(long) = others.first_mut().and_then(|message| at.take_long(message)) {
                sums.advance(ready.get(sums.done), |sum| stream.apply(long, sum));
            } else {
                let run = Run::from(Place { message: 0, ..at }, others, |_| true);
                if run.spans().is_empty() {
                    break;
                }
                sums.advance(ready.get(sums.done), |sum| stream.go_over(&run, others, sum));
                at = Place { message: at.message + run.end.message, block: run.end.block };
            }
            sums.settle(ready, write_tag);
        }
        while sums.done < messages.len() {
            sums.finish_two(messages, write_tag);
        }
    }
}

#[target_feature(enable = "avx2,bmi2")]
fn open(key: &[u8; 32], messages: &mut [Message<'_>]) {
    let mut stream = Stream::new(key);
    for messages in messages.chunks_mut(AT_ONCE) {
        let mut sums = Sums::new(&mut stream, messages);
        let mut at = Place::default();
        loop {
            // Whatever has no tag yet is not decrypted.
            let (summed, others) = messages.split_at_mut(sums.done);
            let opened = summed.get_mut(at.message).filter(|message| message.opened);
            if let Some(long) = opened.and_then(|message| at.take_long(message)) {
                sums.advance(others.first(), |sum| stream.apply(long, sum));
                sums.settle(messages, compare_tag);
                continue;
            }
            let run = Run::from(at, summed, |message| message.opened);
            // More may be opened before lanes are left idle.
            if let (1.., Some(next)) = (run.free, others.first()) {
                // What is long goes on beside others, but for the first one.
                if blocks(next) < LANES {
                    sums.finish_two(messages, compare_tag);
                } else {
                    sums.finish(messages, compare_tag);
                }
                continue;
            }
            if run.spans().is_empty() {
                break;
            }
            sums.advance(others.first(), |sum| stream.go_over(&run, summed, sum));
            sums.settle(messages, compare_tag);
            at = run.end;
        }
    }
}

/// The key stream.
struct Stream {
    cipher: ChaCha20,
    /// The blocks that were made last.
    made: Zeroizing<[[u8; BLOCK]; LANES]>,
}

impl Stream {
    #[target_feature(enable = "avx2,bmi2")]
    fn new(key: &[u8; 32]) -> Self {
        Self { cipher: ChaCha20::new(key), made: Zeroizing::new([[0; BLOCK]; LANES]) }
    }

    /// Encrypts, or decrypts, blocks that follow each other.
    #[target_feature(enable = "avx2,bmi2")]
    fn apply<'a>(&mut self, Long { nonce, blocks, text }: Long<'_>, mut beside: Sum<'a>) -> Sum<'a> {
        for (first, text) in blocks.step_by(LANES).zip(text.chunks_mut(LANES * BLOCK)) {
            let lanes = Lanes::following(nonce, stream_block(first));
            if let Some(text) = text.as_chunks_mut().0.first_chunk_mut() {
                beside = self.cipher.apply(&lanes, beside, text);
            } else {
                beside = self.make(&lanes, beside);
                exclusive_or(text, self.made.as_flattened());
            }
        }
        beside
    }

    /// Encrypts, or decrypts, the blocks of a run.
    #[target_feature(enable = "avx2,bmi2")]
    fn go_over<'a>(&mut self, run: &Run, messages: &mut [Message<'_>], beside: Sum<'a>) -> Sum<'a> {
        let beside = self.make(&run.lanes(messages), beside);
        let mut made = self.made.as_slice();
        for span in run.spans() {
            let (blocks, others) = made.split_at_checked(span.blocks).unwrap_or_default();
            made = others;
            if let Some(message) = messages.get_mut(span.from.message) {
                exclusive_or(rest(message, span.from.block), blocks.as_flattened());
            }
        }
        beside
    }

    #[target_feature(enable = "avx2,bmi2")]
    fn make<'a>(&mut self, lanes: &Lanes, beside: Sum<'a>) -> Sum<'a> {
        *self.made = [[0; BLOCK]; LANES];
        self.cipher.apply(lanes, beside, &mut self.made)
    }
}

/// Exclusive or of a text and a key stream, as far as both go.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn exclusive_or(text: &mut [u8], stream: &[u8]) {
    text.iter_mut().zip(stream).for_each(|(text, stream)| *text ^= stream);
}

/// A block of a message's text.
#[derive(Clone, Copy, Default)]
struct Place {
    message: usize,
    block: usize,
}

/// So many blocks at most are a [`Long`]: meanwhile, 90 blocks are added to a sum, of as long a text.
const LONG: usize = 3 * LANES;

/// Blocks of one text that need no [`Run`]: no lane is left idle, or one at the end.
struct Long<'a> {
    nonce: u64,
    blocks: Range<usize>,
    text: &'a mut [u8],
}

impl Place {
    /// The next blocks of the message here, if they are many.
    fn take_long<'a>(&mut self, message: &'a mut Message<'_>) -> Option<Long<'a>> {
        let left = blocks(message).saturating_sub(self.block);
        let taken = match left.min(LONG) {
            taken if taken % LANES == LANES - 1 => taken,
            taken => taken - taken % LANES,
        };
        if taken == 0 {
            return None;
        }
        let (nonce, blocks) = (message.parsed.counter, self.block..self.block + taken);
        let text = rest(message, self.block);
        *self = if taken == left {
            Self { message: self.message + 1, block: 0 }
        } else {
            Self { block: blocks.end, ..*self }
        };
        let length = text.len().min(taken * BLOCK);
        Some(Long { nonce, blocks, text: text.get_mut(..length)? })
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
    /// Blocks from a place on, of one text or of several, in those of the messages that are wanted.
    #[inline]
    fn from(start: Place, messages: &[Message<'_>], wanted: impl Fn(&Message<'_>) -> bool) -> Self {
        let mut run = Self { spans: Default::default(), count: 0, free: LANES, end: start };
        for message in messages.get(start.message..).unwrap_or_default() {
            let from = run.end;
            let left = if wanted(message) { blocks(message).saturating_sub(from.block) } else { 0 };
            // A single lane is not worth that the rest of a long text is out of step.
            if run.free == 1 && left > LANES {
                run.free = 0;
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
    fn lanes(&self, messages: &[Message<'_>]) -> Lanes {
        let nonce = |message| messages.get(message).map_or(0, |message: &Message<'_>| message.parsed.counter);
        let mut lanes = [(0, 0); LANES];
        let blocks = self.spans().iter().flat_map(|span| {
            let nonce = nonce(span.from.message);
            (span.from.block..).take(span.blocks).map(move |block| (nonce, stream_block(block)))
        });
        lanes.iter_mut().zip(blocks).for_each(|(lane, block)| *lane = block);
        Lanes::of(lanes)
    }
}

/// The sums of messages, one after the other.
struct Sums {
    sums: [Poly1305; AT_ONCE],
    /// So many messages have their tag.
    done: usize,
    /// So many blocks were added of the next one.
    added: usize,
}

impl Sums {
    /// Sums under the one-time keys of so many messages.
    #[target_feature(enable = "avx2,bmi2")]
    fn new(stream: &mut Stream, messages: &[Message<'_>]) -> Self {
        let mut sums = [const { Poly1305::unkeyed() }; AT_ONCE];
        for (messages, sums) in messages.chunks(LANES).zip(sums.chunks_mut(LANES)) {
            let mut lanes = [(0, 0); LANES];
            for (lane, message) in lanes.iter_mut().zip(messages) {
                *lane = (message.parsed.counter, 0);
            }
            stream.make(&Lanes::of(lanes), Sum::none());
            for ((sum, block), _) in sums.iter_mut().zip(stream.made.iter()).zip(messages) {
                if let Some(key) = block.first_chunk() {
                    *sum = Poly1305::new(key);
                }
            }
        }
        Self { sums, done: 0, added: 0 }
    }

    /// Lets `go_on` add to the next sum, if its message is ready.
    #[inline]
    fn advance<'a>(&mut self, next: Option<&'a Message<'_>>, go_on: impl FnOnce(Sum<'a>) -> Sum<'a>) {
        let (Some(message), Some(sum)) = (next, self.sums.get_mut(self.done)) else {
            go_on(Sum::none());
            return;
        };
        let blocks = message.text().as_chunks().0;
        let mut adding = go_on(sum.adding(blocks.get(self.added..).unwrap_or_default()));
        // So that the next sum has all of the next time.
        if adding.left() <= LITTLE {
            adding.advance(LITTLE);
        }
        sum.resume(&adding);
        self.added = blocks.len() - adding.left();
    }

    /// Gives the next one of these messages its tag, if all whole blocks of its text were added.
    #[inline]
    fn settle(&mut self, messages: &mut [Message<'_>], give: impl FnOnce(&mut Message<'_>, [u8; TAG])) {
        let (Some(message), Some(sum)) = (messages.get_mut(self.done), self.sums.get_mut(self.done)) else {
            return;
        };
        let length = message.text().len();
        if self.added < length / SUMMED {
            return;
        }
        let end = message.body.as_chunks().0.get(self.added);
        if let Some(block) = end.filter(|_| !length.is_multiple_of(SUMMED)) {
            sum.padded(block, length % SUMMED);
        }
        sum.lengths(0, length);
        give(message, sum.tag());
        self.done += 1;
        self.added = 0;
    }

    /// Gives the next one of these messages its tag.
    fn finish(&mut self, messages: &mut [Message<'_>], give: impl FnOnce(&mut Message<'_>, [u8; TAG])) {
        self.advance(messages.get(self.done), |mut sum| {
            sum.advance(usize::MAX);
            sum
        });
        self.settle(messages, give);
    }

    /// Gives the next two of these messages their tags, if there are two: each sum fills the time that the other one waits for itself.
    fn finish_two(&mut self, messages: &mut [Message<'_>], give: impl Fn(&mut Message<'_>, [u8; TAG])) {
        let next = messages.get(self.done..).and_then(|next| next.first_chunk::<2>());
        let sums = self.sums.get_mut(self.done..).and_then(|next| next.first_chunk_mut::<2>());
        if let (Some(next), Some([one, two])) = (next, sums) {
            let [first, second] = next.each_ref().map(|message| message.text().as_chunks().0);
            let mut adding = one.adding(first.get(self.added..).unwrap_or_default());
            let mut beside = two.adding(second);
            while adding.left() > 0 {
                adding.advance(1);
                beside.advance(1);
            }
            one.resume(&adding);
            two.resume(&beside);
            self.added = first.len();
            let added = second.len() - beside.left();
            self.settle(messages, &give);
            self.added = added;
        }
        self.finish(messages, give);
    }
}

/// How many blocks of the key stream a text needs.
fn blocks(message: &Message<'_>) -> usize {
    message.text().len().div_ceil(BLOCK)
}

/// A text from a block on, with its end filled up to a multiple of 16 bytes: what is too much is of the tag, or of the room for it.
fn rest<'a>(message: &'a mut Message<'_>, block: usize) -> &'a mut [u8] {
    let end = message.text().len().next_multiple_of(SUMMED);
    message.body.get_mut(block * BLOCK..end).unwrap_or_default()
}

/// The number of a block of a text: the first block of a message is its one-time key.
fn stream_block(block: usize) -> u32 {
    u32::try_from(block + 1).unwrap_or(u32::MAX)
}
