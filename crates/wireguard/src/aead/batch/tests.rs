//! The kernels, against the vectors of RFC 8439 and against AWS-LC.

use std::{io::Write as _, mem::discriminant, sync::Once};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use proptest::prelude::*;

use super::{
    super::{HEADER, Message, TAG, nonce},
    Batch, avx2, avx512,
};
use crate::message::DataHeader;

/// The kernels that this processor has.
fn kernels() -> impl Iterator<Item = Batch> {
    let avx2 = avx2::Kernel::detect().expect("these tests need a processor with AVX2 and BMI2");
    [Some(Batch::Avx2(avx2)), avx512().map(Batch::Avx512)].into_iter().flatten()
}

/// The kernel for AVX-512, which is not tested where the processor has none of it. That is said past the harness, which shows only what tests
/// that fail have printed.
pub(super) fn avx512() -> Option<avx512::Kernel> {
    static SAID: Once = Once::new();
    let kernel = avx512::Kernel::detect();
    if kernel.is_none() {
        SAID.call_once(|| {
            std::io::stderr()
                .write_all(b"\nNOT TESTED: the kernel for AVX-512, which this processor lacks\n")
                .unwrap();
        });
    }
    kernel
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

/// Of a key stream: the block of a key and a nonce that has a number.
pub(super) fn assert_that_it_is_rfc_8439_appendix_a_1s(stream: impl Fn(&[u8; 32], u64, u32) -> [u8; 64]) {
    let first = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586";
    let second = "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f";
    assert_eq!(stream(&[0; 32], 0, 0).as_slice(), hex(first));
    assert_eq!(stream(&[0; 32], 0, 1).as_slice(), hex(second));
    let mut key = [0; 32];
    key[31] = 1;
    let third = "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0";
    assert_eq!(stream(&key, 0, 1).as_slice(), hex(third));
    let mut key = [0; 32];
    key[1] = 0xff;
    let fourth = "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096";
    assert_eq!(stream(&key, 0, 2).as_slice(), hex(fourth));
    let fifth = "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c78a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d";
    assert_eq!(stream(&[0; 32], 2 << 56, 0).as_slice(), hex(fifth));
}

/// Of sums under one-time keys, of whole blocks; also where it is all about carries.
pub(super) fn assert_that_they_are_rfc_8439_appendix_a_3s(poly1305: impl Fn(&[u8; 32], &[u8]) -> [u8; TAG]) {
    let block = |low: u8, rest: u8| {
        let mut block = [rest; 16];
        block[0] = low;
        block.to_vec()
    };
    let r = |low: u8| {
        let mut key = [0; 32];
        key[0] = low;
        key
    };
    let mut added = r(2);
    added[16..].fill(0xff);
    let ff = 0xff;
    let zero = vec![0; 16];
    // Vectors 1 and 5 to 9.
    let cases = [
        ("1", [0; 32], zero.repeat(4), zero.clone()),
        ("5", r(2), block(ff, ff), block(3, 0)),
        ("6", added, block(2, 0), block(3, 0)),
        ("7", r(1), [block(ff, ff), block(0xf0, ff), block(0x11, 0)].concat(), block(5, 0)),
        ("8", r(1), [block(ff, ff), block(0xfb, 0xfe), block(1, 1)].concat(), zero.clone()),
        ("9", r(2), block(0xfd, ff), block(0xfa, ff)),
    ];
    for (number, key, text, expected) in cases {
        assert_eq!(poly1305(&key, &text).as_slice(), expected, "vector {number}");
    }
    // Whole blocks of those with a long r.
    let r = "01000000000000000400000000000000";
    let key: [u8; 32] = [hex(r), vec![0; 16]].concat().try_into().unwrap();
    let text = hex(
        "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000000000000000000000000000000000001000000000000000000000000000000",
    );
    assert_eq!(poly1305(&key, &text).as_slice(), hex("14000000000000005500000000000000"), "vector 10");
    assert_eq!(poly1305(&key, &text[..48]).as_slice(), hex("13000000000000000000000000000000"), "vector 11");
}

/// What AWS-LC makes of the same texts.
fn with_aws_lc(key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut text = text.to_vec();
    key.seal_in_place_append_tag(nonce(counter), Aad::empty(), &mut text).unwrap();
    text
}

/// What must not change lies behind every message.
const BEHIND: [u8; 64] = [0xa5; 64];

/// Seals texts as one batch, compares with AWS-LC, opens what AWS-LC has sealed, with some of it touched, and compares again.
fn check(kernel: Batch, key: &[u8; 32], texts: &[(u64, Vec<u8>)], touched: &[(usize, usize)]) {
    let mut buffers: Vec<Vec<u8>> = texts
        .iter()
        .map(|(counter, text)| {
            let header = DataHeader { receiver: 9, counter: *counter }.encode();
            [&header, text.as_slice(), &[0x55; TAG], &BEHIND].concat()
        })
        .collect();
    let mut batch = messages(&mut buffers);
    kernel.seal(key, &mut batch);
    assert!(batch.iter().all(|message| message.packet().is_none()));
    for (buffer, (counter, text)) in buffers.iter().zip(texts) {
        let sealed = [with_aws_lc(key, *counter, text), BEHIND.to_vec()].concat();
        assert_eq!(buffer[HEADER..], sealed, "{kernel:?} sealing {} bytes", text.len());
    }
    for (message, byte) in touched {
        let buffer = &mut buffers[*message];
        let at = HEADER + byte % (buffer.len() - BEHIND.len() - HEADER);
        buffer[at] ^= 0x10;
    }
    let sealed = buffers.clone();
    let mut batch = messages(&mut buffers);
    kernel.open(key, &mut batch);
    let opens = |number: usize| touched.iter().all(|(touched, _)| *touched != number);
    for (number, (message, (_, text))) in batch.iter().zip(texts).enumerate() {
        let expected = opens(number).then_some(text.as_slice());
        assert_eq!(message.packet(), expected, "{kernel:?} opening {} bytes", text.len());
    }
    for (number, (buffer, sealed)) in buffers.iter().zip(&sealed).enumerate() {
        // Tags behind what was opened are nobody's any more.
        let same = if opens(number) { buffer.len() - BEHIND.len() } else { HEADER };
        assert_eq!(buffer[same..], sealed[same..], "what is refused stays, and what lies behind");
    }
}

fn messages(buffers: &mut [Vec<u8>]) -> Vec<Message<'_>> {
    let message = |buffer| Message::incoming(buffer).unwrap();
    buffers
        .iter_mut()
        .map(|buffer| {
            let end = buffer.len() - BEHIND.len();
            message(&mut buffer[..end])
        })
        .collect()
}

#[test]
fn the_best_kernel_is_taken_where_it_is_faster_than_aws_lc() {
    let mut buffers = vec![[&[4, 0, 0, 0][..], &[0; 28], &BEHIND].concat(); 8];
    let messages = messages(&mut buffers);
    let best = kernels().last().unwrap();
    assert!(Batch::worthwhile(&messages[..best.few() - 1]).is_none());
    let taken = Batch::worthwhile(&messages[..best.few()]).unwrap();
    assert_eq!(discriminant(&taken), discriminant(&best));
    let few: Vec<_> = kernels().map(Batch::few).collect();
    assert_eq!(few, [8, 4][..few.len()], "as `examples/aead.rs` measures");
}

#[test]
fn every_length_is_sealed_and_opened_as_aws_lc_does() {
    let text = |length: usize| (0..length).map(|n| (n * 7 + length) as u8).collect::<Vec<u8>>();
    for length in (0..=2_000).chain([16_384, 65_000]) {
        let texts: Vec<_> = [length, length, length / 3]
            .iter()
            .enumerate()
            .map(|(n, length)| (n as u64, text(*length)))
            .collect();
        kernels().for_each(|kernel| check(kernel, &[3; 32], &texts, &[]));
    }
}

#[test]
fn nothing_is_opened_of_many_messages_that_were_all_touched_nor_of_the_first_of_them() {
    for length in [0, 64, 447, 1_420, 1_537] {
        let texts: Vec<_> = (0..70).map(|n| (n, vec![7; length])).collect();
        let touched: Vec<_> = (0..70).map(|n| (n, 5)).collect();
        for kernel in kernels() {
            check(kernel, &[3; 32], &texts, &touched);
            check(kernel, &[3; 32], &texts, &touched[..64]);
            check(kernel, &[3; 32], &texts, &touched[64..]);
        }
    }
}

#[test]
fn every_bit_of_a_tag_counts() {
    let sealed =
        [&DataHeader { receiver: 9, counter: 7 }.encode(), &with_aws_lc(&[3; 32], 7, &[5; 50])[..]].concat();
    for kernel in kernels() {
        let mut buffers = vec![[&sealed[..], &BEHIND].concat(); 8 * TAG];
        for (bit, buffer) in buffers.iter_mut().enumerate() {
            buffer[HEADER + 50 + bit / 8] ^= 1 << (bit % 8);
        }
        let mut batch = messages(&mut buffers);
        kernel.open(&[3; 32], &mut batch);
        assert!(batch.iter().all(|message| message.packet().is_none()), "{kernel:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn batches_of_any_lengths_are_sealed_and_opened_as_aws_lc_does(
        key: [u8; 32],
        begin in prop_oneof![any::<u64>(), Just(u64::from(u32::MAX) - 20)],
        lengths in prop::collection::vec(
            (prop_oneof![any::<u64>(), 0..100_u64], prop_oneof![0..200_usize, 0..2_000_usize, Just(1_420), Just(8_900)]),
            0..140,
        ),
        seed: u8,
        touched in prop::collection::vec((any::<prop::sample::Index>(), any::<usize>()), 0..4),
    ) {
        let texts: Vec<_> = lengths.iter().map(|(counter, length)| {
            let text = (0..*length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            (begin.wrapping_add(*counter), text)
        }).collect();
        let touched: std::collections::BTreeMap<_, _> =
            touched.iter().filter(|_| !texts.is_empty()).map(|(index, byte)| (index.index(texts.len()), *byte)).collect();
        let touched: Vec<_> = touched.into_iter().collect();
        kernels().for_each(|kernel| check(kernel, &key, &texts, &touched));
    }
}

/// Poly1305 digit by digit.
pub(super) fn slow_poly1305(key: &[u8; 32], blocks: &[[u8; 16]]) -> [u8; 16] {
    // Little-endian digits in base 2^8, reduced after each product by 2^130 = 5.
    let number = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).collect::<Vec<u64>>();
    let mut r = number(&key[..16]);
    for at in [3, 7, 11, 15] {
        r[at] &= 0x0f;
    }
    for at in [4, 8, 12] {
        r[at] &= 0xfc;
    }
    let carry = |digits: &mut Vec<u64>| {
        let mut over = 0;
        for digit in digits.iter_mut() {
            over += *digit;
            *digit = over & 0xff;
            over >>= 8;
        }
        while over > 0 {
            digits.push(over & 0xff);
            over >>= 8;
        }
    };
    // What is above 2^130 comes back five times.
    let reduce = |digits: &mut Vec<u64>| {
        while digits.len() > 17 || digits.get(16).is_some_and(|digit| *digit > 3) {
            let mut above: Vec<u64> = digits[16..].to_vec();
            digits.truncate(17);
            digits[16] &= 3;
            above[0] &= !3;
            // `above` stands at 2^128; divided by four and times five.
            for (at, digit) in above.iter().enumerate() {
                let fives = digit * 5;
                let (low, high) = (fives >> 2, (fives & 3) << 6);
                digits.resize(digits.len().max(at + 1), 0);
                digits[at] += low;
                if at > 0 {
                    digits[at - 1] += high;
                }
            }
            carry(digits);
        }
    };
    let mut h = vec![0; 17];
    for block in blocks {
        for (at, byte) in block.iter().chain(&[1]).enumerate() {
            h[at] += u64::from(*byte);
        }
        carry(&mut h);
        let mut product = vec![0; h.len() + 16];
        for (i, a) in h.iter().enumerate() {
            for (j, b) in r.iter().enumerate() {
                product[i + j] += a * b;
            }
        }
        carry(&mut product);
        reduce(&mut product);
        h = product;
        h.resize(17, 0);
    }
    // h is below 2^130: is it the modulus or more?
    let mut plus = h.clone();
    plus[0] += 5;
    carry(&mut plus);
    if plus[16] > 3 {
        h = plus;
    }
    h.truncate(16);
    for (digit, byte) in h.iter_mut().zip(&key[16..]) {
        *digit += u64::from(*byte);
    }
    carry(&mut h);
    std::array::from_fn(|at| u8::try_from(h[at]).unwrap())
}
