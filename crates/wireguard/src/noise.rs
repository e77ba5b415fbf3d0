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
