//! The handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` with WireGuard's prologue (whitepaper, section 5.4).

use std::sync::LazyLock;

use carrick_types::WireGuardKey;

use crate::{
    Cipher, Identity, PresharedKey, Random, Refused, TAG, Tai64N,
    message::{Initiation, Response},
    primitives::{DhSecret, Secret, dh, hash, kdf},
};

/// The chaining key and the hash that every handshake begins with.
static BEGINNING: LazyLock<([u8; 32], [u8; 32])> = LazyLock::new(|| {
    let chain = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
    (chain, hash(&[&chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]))
});

/// The keys that a handshake ends in.
pub(crate) struct Keys {
    pub(crate) send: Cipher,
    pub(crate) receive: Cipher,
}

/// What both sides have computed so far.
#[derive(Clone)]
pub(crate) struct Transcript {
    chain: Secret,
    hash: [u8; 32],
}

impl Transcript {
    /// The beginning of a handshake with this responder.
    pub(crate) fn new(responder: &WireGuardKey) -> Self {
        let (chain, hash) = *BEGINNING;
        let mut transcript = Self { chain: chain.into(), hash };
        transcript.mix(responder.as_bytes());
        transcript
    }

    fn mix(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    fn ephemeral(&mut self, public: &[u8; 32]) {
        [self.chain] = kdf(&self.chain, public);
        self.mix(public);
    }

    fn chain(&mut self, shared: &Secret) {
        [self.chain] = kdf(&self.chain, &shared[..]);
    }

    fn key(&mut self, shared: &Secret) -> Cipher {
        let [chain, key] = kdf(&self.chain, &shared[..]);
        self.chain = chain;
        Cipher::from_secret(key)
    }

    fn preshared(&mut self, preshared: &PresharedKey) -> Cipher {
        let [chain, mixed, key] = kdf(&self.chain, preshared.expose());
        self.chain = chain;
        self.mix(&mixed[..]);
        Cipher::from_secret(key)
    }

    /// Seals a text, whose length with a tag is N.
    fn seal<const N: usize>(&mut self, key: &Cipher, text: &[u8]) -> [u8; N] {
        debug_assert_eq!(text.len() + TAG, N);
        let mut field = [0; N];
        for (to, byte) in field.iter_mut().zip(text) {
            *to = *byte;
        }
        key.seal_field(&self.hash, &mut field);
        self.mix(&field);
        field
    }

    /// Opens a field to the first N bytes of its text.
    fn open<const N: usize>(&mut self, key: &Cipher, field: &[u8]) -> Result<[u8; N], Refused> {
        let before = self.hash;
        self.mix(field);
        let mut copy = [0; 48];
        let copy = copy.get_mut(..field.len()).ok_or(Refused::Malformed)?;
        copy.copy_from_slice(field);
        key.open_field(&before, copy)?.first_chunk().copied().ok_or(Refused::Malformed)
    }

    /// The initiator's two keys: the one that it sends with and the one that it receives with.
    fn split(&self) -> [Secret; 2] {
        kdf(&self.chain, &[])
    }
}

/// An initiation of ours that may yet be answered.
pub(crate) struct Initiated {
    /// What the response is to name.
    pub(crate) index: u32,
    transcript: Transcript,
    ephemeral: DhSecret,
}

/// Begins a handshake. `shared` is the agreement of the two static keys.
pub(crate) fn initiate(
    identity: &Identity,
    responder: &WireGuardKey,
    shared: &Secret,
    index: u32,
    timestamp: Tai64N,
    random: &mut dyn Random,
) -> Result<(Initiated, Initiation), Refused> {
    let mut transcript = Transcript::new(responder);
    let (ephemeral, public) = generate(random);
    transcript.ephemeral(&public);
    let key = transcript.key(&dh(&ephemeral, responder.as_bytes())?);
    let sealed_static = transcript.seal(&key, identity.public().as_bytes());
    let key = transcript.key(shared);
    let sealed_timestamp = transcript.seal(&key, timestamp.as_bytes());
    let message = Initiation { sender: index, ephemeral: public, sealed_static, sealed_timestamp };
    Ok((Initiated { index, transcript, ephemeral }, message))
}

/// The first half of what a responder does: whose the initiation is. Costs one agreement.
pub(crate) fn identify(
    secret: &DhSecret,
    public: &WireGuardKey,
    initiation: &Initiation,
) -> Result<([u8; 32], Transcript), Refused> {
    let mut transcript = Transcript::new(public);
    transcript.ephemeral(&initiation.ephemeral);
    let key = transcript.key(&dh(secret, &initiation.ephemeral)?);
    let initiator = transcript.open(&key, &initiation.sealed_static)?;
    Ok((initiator, transcript))
}

/// The second half: when it was made.
pub(crate) fn timestamp(
    transcript: &mut Transcript,
    shared: &Secret,
    initiation: &Initiation,
) -> Result<Tai64N, Refused> {
    let key = transcript.key(shared);
    transcript.open(&key, &initiation.sealed_timestamp).map(Tai64N::from_bytes)
}

/// Answers an initiation.
pub(crate) fn respond(
    mut transcript: Transcript,
    initiation: &Initiation,
    initiator: &WireGuardKey,
    preshared: &PresharedKey,
    index: u32,
    random: &mut dyn Random,
) -> Result<(Keys, Response), Refused> {
    let (ephemeral, public) = generate(random);
    transcript.ephemeral(&public);
    transcript.chain(&dh(&ephemeral, &initiation.ephemeral)?);
    transcript.chain(&dh(&ephemeral, initiator.as_bytes())?);
    let key = transcript.preshared(preshared);
    let sealed_nothing = transcript.seal(&key, &[]);
    let [receive, send] = transcript.split().map(Cipher::from_secret);
    let message = Response { sender: index, receiver: initiation.sender, ephemeral: public, sealed_nothing };
    Ok((Keys { send, receive }, message))
}

/// Takes the response to an initiation.
pub(crate) fn finish(
    initiated: &Initiated,
    identity: &Identity,
    preshared: &PresharedKey,
    response: &Response,
) -> Result<Keys, Refused> {
    let mut transcript = initiated.transcript.clone();
    transcript.ephemeral(&response.ephemeral);
    transcript.chain(&dh(&initiated.ephemeral, &response.ephemeral)?);
    transcript.chain(&identity.agree(&response.ephemeral)?);
    let key = transcript.preshared(preshared);
    let [] = transcript.open(&key, &response.sealed_nothing)?;
    let [send, receive] = transcript.split().map(Cipher::from_secret);
    Ok(Keys { send, receive })
}

fn generate(random: &mut dyn Random) -> (DhSecret, [u8; 32]) {
    let mut bytes = Secret::default();
    random.fill(&mut bytes[..]);
    let secret = DhSecret::new(&bytes);
    let public = *secret.public();
    (secret, public)
}

#[cfg(test)]
mod tests {
    use carrick_types::WireGuardSecret;

    use super::*;
    use crate::{HEADER, Message, dropped::before_and_after, macs::Macs, message::DataHeader};

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
    }

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex(text).try_into().unwrap()
    }

    fn secret(text: &str) -> WireGuardSecret {
        WireGuardSecret::from_bytes(bytes(text))
    }

    /// Gives these bytes as if they were random, once.
    fn dealt(text: &str) -> impl FnMut(&mut [u8]) {
        let mut rest = Some(hex(text));
        move |buffer: &mut [u8]| buffer.copy_from_slice(&rest.take().unwrap())
    }

    /// A text without padding, so many times at once.
    fn sealed(cipher: &Cipher, counter: u64, text: &[u8], times: usize) -> Vec<Vec<u8>> {
        let message = [&DataHeader { receiver: 1, counter }.encode(), text, &[0; TAG]].concat();
        let mut buffers = vec![message; times];
        let messages = buffers.iter_mut().map(|buffer| Message::incoming(buffer).unwrap());
        cipher.seal(&mut messages.collect::<Vec<_>>());
        buffers.iter().map(|buffer| buffer[HEADER..].to_vec()).collect()
    }

    /// What one side seals, the other opens.
    fn assert_same_keys(send: &Cipher, receive: &Cipher) {
        let mut buffer = [7; HEADER + 16 + TAG];
        let mut batch = [Message::outgoing(&mut buffer, 16, 1420).unwrap()];
        batch[0].address(DataHeader { receiver: 1, counter: 5 });
        send.seal(&mut batch);
        let mut batch = [Message::incoming(&mut buffer).unwrap()];
        receive.open(&mut batch);
        assert_eq!(batch[0].packet(), Some(&[7; 16][..]));
    }

    /// A handshake of two other implementations, with every secret in it, as Peter Wu recorded it in 2018 for the tests of Wireshark's
    /// dissector: <https://github.com/Lekensteyn/wireguard-dissector>, `wg_crypto_test.c`. Both second MACs, left out here, are zero.
    #[test]
    fn a_recorded_handshake_comes_out_byte_by_byte() {
        let initiator = secret("8017a7d20d11554391e1e86516459d0dfd7c21cfff971048c5ad4faaf8d3984c");
        let responder = secret("40285a1835de1f7790b1b14086e79435615dabd29fa45df297e7884e365b5c49");
        let ephemerals = [
            "c06ca097690561d6c958832d12669240030e36e5f5f9bd8467dba6841ea6084a",
            "10bc21961b1e37083ae05a2cd2a2615db495781736958564a9d9a42f1deb7a48",
        ];
        let timestamp = Tai64N::from_bytes(bytes("400000005a994d2c3b389469"));
        let recorded_initiation = hex(
            "0100000015cf47c7744fc57d33642a1ca516fd8362a6fb908e4fdc046549d80faaa3704b68c7cb73ac707e42e7636cfb\
            87fd4d755d68694df1756fe4089a5740df7872310426d434ed384a753935198b277a6d865a4a597d1a159f8bea3e20b4\
            465399fbe6f2602fa6b657a8896ad6443609cfd6d027f041b4cae1016f435157037f0ea9",
        );
        let recorded_response = hex(
            "0200000032fa1aac15cf47c7193cbb311b4132235fe178af862fc67d31122abc0f080efafc5ea27a9a94a10750f40920\
            ef1786e049472e8b03595e65730b94f13b49d294bf85f5cad7f6ef28",
        );
        let (ours, theirs) = (Identity::new(&initiator), Identity::new(&responder));
        let shared = ours.agree(theirs.public().as_bytes()).unwrap();
        let none = PresharedKey::default();
        #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no cookie is too old")]
        let at = std::time::Instant::now();

        let index = 0xc747_cf15;
        let mut random = dealt(ephemerals[0]);
        let begun = initiate(&ours, theirs.public(), &shared, index, timestamp, &mut random);
        let (initiated, initiation) = begun.unwrap();
        let signed = Macs::new(theirs.public()).sign(initiation.encode(), index, at);
        assert_eq!(signed[..132], recorded_initiation);
        assert_eq!(signed[132..], [0; 16]);

        let identified = theirs.identify(Initiation::parse(&signed).unwrap()).unwrap();
        assert_eq!(identified.initiator(), ours.public());
        let mut transcript = identified.transcript;
        assert_eq!(super::timestamp(&mut transcript, &shared, &initiation), Ok(timestamp));
        let (index, mut random) = (0xac1a_fa32, dealt(ephemerals[1]));
        let answered = respond(transcript, &initiation, ours.public(), &none, index, &mut random);
        let (their_keys, response) = answered.unwrap();
        let signed = Macs::new(ours.public()).sign(response.encode(), index, at);
        assert_eq!(signed[..76], recorded_response);
        assert_eq!(signed[76..], [0; 16]);

        let our_keys = finish(&initiated, &ours, &none, &Response::parse(&signed).unwrap()).unwrap();
        assert_same_keys(&our_keys.send, &their_keys.receive);
        assert_same_keys(&their_keys.send, &our_keys.receive);
    }

    /// `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` of <https://github.com/haskell-cryptography/cacophony>, `vectors/cacophony.txt`, where prologue
    /// and payloads are others than WireGuard's, and the preshared key is not zero.
    #[test]
    fn the_steps_of_the_handshake_are_those_of_cacophonys_vector() {
        let psk = PresharedKey::from_bytes(bytes(
            "54686973206973206d7920417573747269616e20706572737065637469766521",
        ));
        let initiator =
            DhSecret::new(&bytes("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"));
        let responder =
            DhSecret::new(&bytes("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"));
        let ours = DhSecret::new(&bytes("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"));
        let theirs =
            DhSecret::new(&bytes("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"));
        let (chain, _) = *BEGINNING;
        let mut transcript = Transcript { chain: chain.into(), hash: hash(&[&chain, b"John Galt"]) };
        transcript.mix(responder.public());

        let mut message = ours.public().to_vec();
        transcript.ephemeral(ours.public());
        let key = transcript.key(&dh(&ours, responder.public()).unwrap());
        message.extend(transcript.seal::<48>(&key, initiator.public()));
        let key = transcript.key(&dh(&initiator, responder.public()).unwrap());
        message.extend(transcript.seal::<32>(&key, b"Ludwig von Mises"));
        let first = hex(
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb5\
            6253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985\
            464cf17e51ee93109008399a21f7e13f",
        );
        assert_eq!(message, first);

        let mut message = theirs.public().to_vec();
        transcript.ephemeral(theirs.public());
        transcript.chain(&dh(&theirs, ours.public()).unwrap());
        transcript.chain(&dh(&theirs, initiator.public()).unwrap());
        let key = transcript.preshared(&psk);
        message.extend(transcript.seal::<31>(&key, b"Murray Rothbard"));
        let second = hex(
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab03222\
            17755c0632f365717edbf34d33e87a",
        );
        assert_eq!(message, second);
        assert_eq!(
            transcript.hash,
            bytes("f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5")
        );

        let [to_responder, to_initiator] = transcript.split().map(Cipher::from_secret);
        let transport: [(&Cipher, u64, &[u8], &str); 4] = [
            (&to_responder, 0, b"F. A. Hayek", "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7"),
            (&to_initiator, 0, b"Carl Menger", "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef"),
            (
                &to_responder,
                1,
                b"Jean-Baptiste Say",
                "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
            ),
            (
                &to_initiator,
                1,
                b"Eugen B\xf6hm von Bawerk",
                "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
            ),
        ];
        for (cipher, counter, text, expected) in transport {
            // By AWS-LC, and by the kernel of our own.
            for times in [1, 20] {
                assert_eq!(sealed(cipher, counter, text, times), vec![hex(expected); times], "{counter}");
            }
        }
    }

    #[test]
    fn of_a_handshake_that_was_dropped_the_chaining_key_is_zero_where_it_was() {
        let transcript = Transcript { chain: [9; 32].into(), hash: [1; 32] };
        let expected = [[9; 32], [0; 32]];
        assert_eq!(before_and_after(transcript, std::mem::offset_of!(Transcript, chain)), expected);
        let (ephemeral, index) = (DhSecret::new(&[1; 32]), 1);
        let transcript = Transcript { chain: [9; 32].into(), hash: [1; 32] };
        let initiated = Initiated { index, transcript, ephemeral };
        assert_eq!(before_and_after(initiated, std::mem::offset_of!(Initiated, transcript.chain)), expected);
    }
}
