//! With AVX-512: sixteen blocks of the key stream at once, whichever messages they are of, and the sums of eight messages at once.
//!
//! Messages are encrypted before they are summed, and summed before they are decrypted, if they are authentic. Nothing goes on beside anything
//! else: each part fills the vector units by itself.

mod chacha20;
mod poly1305;
mod vector;

use std::arch::x86_64::_mm512_setzero_si512;

use zeroize::Zeroizing;

use self::{
    chacha20::{Lanes, Stream},
    poly1305::Sums,
};
use super::{
    super::{Message, TAG},
    compare_tag, write_tag,
};

/// So many messages go through both parts before the next ones: there is a lane for the one-time key of each, and their texts stay in the nearest cache.
const AT_ONCE: usize = chacha20::LANES;

const _: () = assert!(AT_ONCE.is_multiple_of(poly1305::LANES), "every message has a lane for its sum");

/// So many messages are worth it (`examples/aead.rs`).
pub(super) const FEW: usize = 4;

/// This processor has what is needed.
#[derive(Clone, Copy, Debug)]
pub(in crate::aead) struct Kernel(());

impl Kernel {
    /// `None` where something is missing.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vbmi2");
        found.then_some(Self(()))
    }

    /// Seals the texts in place, each under the counter in its header.
    pub(super) fn seal(self, key: &[u8; 32], messages: &mut [Message<'_>]) {
        // SAFETY: `self` exists only where the processor has what is needed.
        unsafe { seal(key, messages) }
    }

    /// Opens the texts in place, those that are authentic.
    pub(super) fn open(self, key: &[u8; 32], messages: &mut [Message<'_>]) {
        // SAFETY: `self` exists only where the processor has what is needed.
        unsafe { open(key, messages) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn seal(key: &[u8; 32], messages: &mut [Message<'_>]) {
    let mut stream = Stream::new(key);
    for messages in messages.chunks_mut(AT_ONCE) {
        apply(&mut stream, messages, |_| true);
        give_tags(&stream, messages, write_tag);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn open(key: &[u8; 32], messages: &mut [Message<'_>]) {
    let mut stream = Stream::new(key);
    for messages in messages.chunks_mut(AT_ONCE) {
        give_tags(&stream, messages, compare_tag);
        apply(&mut stream, messages, |message| message.opened);
    }
}

/// Encrypts, or decrypts, the texts of those messages that are wanted.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn apply(stream: &mut Stream, messages: &mut [Message<'_>], wanted: impl Fn(&Message<'_>) -> bool) {
    let mut lanes = Lanes::new();
    for message in messages.iter_mut().filter(|message| wanted(message)) {
        stream.apply(&mut lanes, message.parsed.counter, message.text_mut());
    }
    stream.flush(&mut lanes);
}

/// Gives each message the tag that its sealed text has.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn give_tags(stream: &Stream, messages: &mut [Message<'_>], give: impl Fn(&mut Message<'_>, [u8; TAG])) {
    let mut nonces = [0; AT_ONCE];
    for (nonce, message) in nonces.iter_mut().zip(messages.iter()) {
        *nonce = message.parsed.counter;
    }
    let mut keys = Zeroizing::new([_mm512_setzero_si512(); AT_ONCE]);
    stream.make_first(nonces, &mut keys);
    for (messages, keys) in messages.chunks_mut(poly1305::LANES).zip(keys.as_chunks().0) {
        let mut texts = [&[][..]; poly1305::LANES];
        for (text, message) in texts.iter_mut().zip(messages.iter()) {
            *text = message.text();
        }
        let mut sums = Sums::new(keys);
        sums.add(texts);
        sums.add_lengths(texts);
        messages.iter_mut().zip(sums.tags()).for_each(|(message, tag)| give(message, tag));
    }
}
