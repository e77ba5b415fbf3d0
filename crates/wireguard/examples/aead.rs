//! How long ChaCha20-Poly1305 takes a message, with AWS-LC (message by message, and behind [`Cipher`] with its batches) and with
//! RustCrypto's: `cargo run --release -p carrick-wireguard --example aead`.

#![allow(clippy::print_stdout, reason = "it is what this is for")]
#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use carrick_wireguard::{Cipher, Message, OVERHEAD, TAG, padded};
use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _};

const SIZES: [usize; 4] = [64, 576, 1_420, 8_900];

const BATCHES: [usize; 4] = [1, 8, 45, 64];

/// Each measurement is the best of so many.
const WINDOWS: usize = 2_000;

const KEY: [u8; 32] = [7; 32];

fn main() {
    println!("{:>6}  {:>24}  {:>9}  {:>10}", "bytes", "", "ns/packet", "Gbit/s");
    for size in SIZES {
        row(size, "AWS-LC, key kept", message_by_message(size, seal_with_aws_lc()));
        row(size, "RustCrypto, key kept", message_by_message(size, seal_with_rustcrypto()));
        for batch in BATCHES {
            row(size, &format!("Cipher, batches of {batch}"), batches(size, batch, Cipher::seal));
        }
        row(size, "Cipher, both ways, 45", batches(size, 45, there_and_back));
    }
}

fn row(size: usize, what: &str, time: Duration) {
    let nanoseconds = time.as_secs_f64() * 1e9;
    println!("{size:>6}  {what:>24}  {nanoseconds:>9.0}  {:>10.2}", size as f64 * 8.0 / nanoseconds);
}

fn seal_with_aws_lc() -> impl FnMut(&mut [u8]) {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEY).expect("the key has 32 bytes"));
    move |buffer| {
        let (text, _) = buffer.split_at_mut(buffer.len() - TAG);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        black_box(key.seal_in_place_separate_tag(nonce, Aad::empty(), text).is_ok());
    }
}

fn seal_with_rustcrypto() -> impl FnMut(&mut [u8]) {
    let key = ChaCha20Poly1305::new(&KEY.into());
    move |buffer| {
        let (text, _) = buffer.split_at_mut(buffer.len() - TAG);
        black_box(key.encrypt_in_place_detached(&[0; 12].into(), &[], text).is_ok());
    }
}

fn message_by_message(size: usize, mut seal: impl FnMut(&mut [u8])) -> Duration {
    let mut buffer = vec![1; padded(size, size) + TAG];
    best(1, || seal(black_box(&mut buffer)))
}

fn batches(size: usize, batch: usize, work: impl Fn(&Cipher, &mut [Message<'_>])) -> Duration {
    let cipher = Cipher::new(KEY);
    let mut buffers = vec![vec![1; padded(size, size) + OVERHEAD]; batch];
    let mut messages: Vec<Message<'_>> =
        buffers.iter_mut().filter_map(|buffer| Message::outgoing(buffer, size, size)).collect();
    assert_eq!(messages.len(), batch);
    best(batch, || work(&cipher, black_box(&mut messages)))
}

/// Opening alone would be measured on messages that are not authentic any more.
fn there_and_back(cipher: &Cipher, messages: &mut [Message<'_>]) {
    cipher.seal(messages);
    cipher.open(messages);
    assert!(messages.iter().all(|message| message.packet().is_some()), "all are authentic");
}

/// The time per message of a step that does so many: the shortest of many short windows, which nothing else has interrupted.
fn best(messages: usize, mut step: impl FnMut()) -> Duration {
    let steps = u32::try_from(64_usize.div_ceil(messages)).unwrap_or(1);
    let window = |step: &mut dyn FnMut()| {
        let begun = Instant::now();
        for _ in 0..steps {
            step();
        }
        begun.elapsed() / steps
    };
    let fastest = (0..WINDOWS).map(|_| window(&mut step)).min().unwrap_or_default();
    fastest.div_f64(messages as f64)
}
