//! How long ChaCha20-Poly1305 takes a message, with AWS-LC (message by message, and behind [`Cipher`] with its batches) and with
//! RustCrypto's: `cargo run --release -p carrick-wireguard --example aead [SIZE]...`.

#![allow(clippy::print_stdout, reason = "it is what this is for")]
#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use carrick_wireguard::{Cipher, HEADER, Message, OVERHEAD, TAG, padded};
use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _};

const SIZES: [usize; 5] = [64, 576, 1_240, 1_420, 8_900];

const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 45, 64];

/// Everything is measured in turn, so often: whatever else the processor's core does then is not always beside the same.
const TURNS: usize = 100;

/// Each turn measures so often. Of all, the shortest time counts, which nothing else has interrupted.
const WINDOWS: usize = 40;

const KEY: [u8; 32] = [7; 32];

/// Does something with so many messages, and says how long it took.
struct Row {
    size: usize,
    what: String,
    messages: usize,
    measure: Box<dyn FnMut() -> Duration>,
    best: Duration,
}

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if asked.is_empty() { SIZES.to_vec() } else { asked };
    let mut rows: Vec<Row> = sizes.into_iter().flat_map(rows).collect();
    for _ in 0..TURNS {
        for row in &mut rows {
            let best = (0..WINDOWS).map(|_| (row.measure)()).min().unwrap_or_default();
            row.best = row.best.min(best);
        }
    }
    println!("{:>6}  {:>24}  {:>9}  {:>10}", "bytes", "", "ns/packet", "Gbit/s");
    for Row { size, what, messages, best, .. } in rows {
        let nanoseconds = best.as_secs_f64() * 1e9 / messages as f64;
        println!("{size:>6}  {what:>24}  {nanoseconds:>9.0}  {:>10.2}", size as f64 * 8.0 / nanoseconds);
    }
}

fn rows(size: usize) -> Vec<Row> {
    let row = |what: String, messages, measure| Row { size, what, messages, measure, best: Duration::MAX };
    let mut rows = vec![
        row("AWS-LC seals".into(), 64, message_by_message(size, seal_with_aws_lc())),
        row("AWS-LC opens".into(), 64, message_by_message(size, open_with_aws_lc(size))),
        row("RustCrypto seals".into(), 64, message_by_message(size, seal_with_rustcrypto())),
    ];
    for batch in BATCHES {
        rows.push(row(format!("Cipher seals {batch}"), batch, in_batches(size, batch, false)));
        rows.push(row(format!("Cipher opens {batch}"), batch, in_batches(size, batch, true)));
    }
    rows
}

fn aws_lc() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEY).expect("the key has 32 bytes"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn seal_with_aws_lc() -> impl FnMut(&mut [u8]) {
    let key = aws_lc();
    move |buffer| {
        let (text, _) = buffer.split_at_mut(buffer.len() - TAG);
        black_box(key.seal_in_place_separate_tag(nonce(), Aad::empty(), text).is_ok());
    }
}

fn open_with_aws_lc(size: usize) -> impl FnMut(&mut [u8]) {
    let key = aws_lc();
    let mut sealed = vec![1; padded(size, size)];
    key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).expect("it is short");
    let restored = sealed.clone();
    move |_| {
        sealed.copy_from_slice(&restored);
        assert!(key.open_in_place(nonce(), Aad::empty(), black_box(&mut sealed)).is_ok());
    }
}

fn seal_with_rustcrypto() -> impl FnMut(&mut [u8]) {
    let key = ChaCha20Poly1305::new(&KEY.into());
    move |buffer| {
        let (text, _) = buffer.split_at_mut(buffer.len() - TAG);
        black_box(key.encrypt_in_place_detached(&[0; 12].into(), &[], text).is_ok());
    }
}

fn message_by_message(
    size: usize,
    mut work: impl FnMut(&mut [u8]) + 'static,
) -> Box<dyn FnMut() -> Duration> {
    let mut buffer = vec![1; padded(size, size) + TAG];
    Box::new(move || {
        let begun = Instant::now();
        for _ in 0..64 {
            work(black_box(&mut buffer));
        }
        begun.elapsed()
    })
}

/// Seals a batch, or opens what was sealed before.
fn in_batches(size: usize, batch: usize, opens: bool) -> Box<dyn FnMut() -> Duration> {
    let cipher = Cipher::new(KEY);
    let mut buffers = vec![vec![1; padded(size, size) + OVERHEAD]; batch];
    Box::new(move || {
        let outgoing = |buffer| Message::outgoing(buffer, size, size).expect("there is room");
        let mut messages: Vec<_> = buffers.iter_mut().map(|buffer| outgoing(buffer)).collect();
        let begun = Instant::now();
        cipher.seal(black_box(&mut messages));
        let sealed = begun.elapsed();
        drop(messages);
        if !opens {
            return sealed;
        }
        for buffer in &mut buffers {
            buffer[..HEADER].fill(0);
            buffer[0] = 4;
        }
        let incoming = |buffer| Message::incoming(buffer).expect("it is a data message");
        let mut messages: Vec<_> = buffers.iter_mut().map(|buffer| incoming(buffer)).collect();
        let begun = Instant::now();
        cipher.open(black_box(&mut messages));
        let opened = begun.elapsed();
        assert!(messages.iter().all(|message| message.packet().is_some()), "all are authentic");
        opened
    })
}
