//! Signed heads of the log: C2SP's `tlog-checkpoint` in a `signed-note` (<https://c2sp.org/tlog-checkpoint>).

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use carrick_attest::{Bundle, Bytes, Hex, policy::LogHead};
use carrick_types::{CoordinatorKey, CoordinatorSecret, MeshId, Signature};
use sha2::{Digest as _, Sha256};

use super::tree::Hash;

/// The longest signed checkpoint that is read, in bytes.
const MAX_LENGTH: usize = 4096;

/// The algorithm byte of Ed25519 in a signed note's key id.
const ED25519: u8 = 1;

/// Which log: a mesh's, from its beginning or from where the operator last set it back. A head of the part that was given up is of another
/// log, and says nothing of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Whose log.
    pub mesh: MeshId,
    /// See [`Bundle::log_restart`].
    pub restart: Option<LogHead>,
}

/// The head of a log at some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: Origin,
    /// How many entries it has.
    pub size: u64,
    /// The head of their tree.
    pub head: Hash,
}

/// A checkpoint with its signature; the text is the note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    note: String,
    checkpoint: Checkpoint,
    signature: Signature,
    key_id: [u8; 4],
}

/// Why a note is no checkpoint, or not this coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note with a checkpoint's three lines.
    #[error("this is not a signed checkpoint")]
    Malformed,
    /// Of another log.
    #[error("the checkpoint is of another mesh's log, or of one that the operator has set back")]
    OtherLog,
    /// Not signed by the key that was asked for.
    #[error("the checkpoint is not signed by the coordinator's key")]
    Signature,
}

impl Origin {
    /// The log of the mesh that a bundle is for.
    pub const fn of(bundle: &Bundle) -> Self {
        Self { mesh: bundle.mesh, restart: bundle.log_restart }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}{}", self.mesh)?;
        self.restart.map_or(Ok(()), |LogHead { size, head }| write!(f, "/{size}-{}", Hex(head.0)))
    }
}

impl Checkpoint {
    /// The note's text: what is signed.
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.head))
    }

    /// Signs it with the coordinator's signing key.
    pub fn sign(&self, key: &CoordinatorSecret) -> SignedCheckpoint {
        let text = self.text();
        let signature = key.sign(text.as_bytes());
        let key_id = key_id(&self.origin, &key.public());
        let mut stamp = key_id.to_vec();
        stamp.extend_from_slice(signature.as_bytes());
        let note = format!("{text}\n\u{2014} {} {}\n", self.origin, STANDARD.encode(stamp));
        SignedCheckpoint { note, checkpoint: *self, signature, key_id }
    }
}

impl SignedCheckpoint {
    /// The log that it claims to be of.
    pub const fn origin(&self) -> Origin {
        self.checkpoint.origin
    }

    /// The checkpoint, if it is of this log and this key signed it.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn verify(&self, origin: &Origin, key: &CoordinatorKey) -> Result<Checkpoint, CheckpointError> {
        if self.checkpoint.origin != *origin {
            return Err(CheckpointError::OtherLog);
        }
        let signed = self.key_id == key_id(origin, key)
            && key.verifies(self.checkpoint.text().as_bytes(), &self.signature);
        if signed { Ok(self.checkpoint) } else { Err(CheckpointError::Signature) }
    }
}

impl FromStr for SignedCheckpoint {
    type Err = CheckpointError;

    fn from_str(note: &str) -> Result<Self, Self::Err> {
        parse(note).ok_or(CheckpointError::Malformed)
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.note)
    }
}

fn parse(note: &str) -> Option<SignedCheckpoint> {
    if note.len() > MAX_LENGTH {
        return None;
    }
    let (text, signatures) = note.split_once("\n\n")?;
    let mut lines = text.split('\n');
    let (name, size, head) = (lines.next()?, lines.next()?, lines.next()?);
    let origin = parse_origin(name)?;
    let size: u64 = size.parse().ok()?;
    let head: Hash = STANDARD.decode(head).ok()?.try_into().ok()?;
    let stamp =
        signatures.strip_suffix('\n')?.strip_prefix("\u{2014} ")?.strip_prefix(name)?.strip_prefix(' ')?;
    let stamp = STANDARD.decode(stamp).ok()?;
    let (key_id, signature) = stamp.split_first_chunk::<4>()?;
    let signature = Signature::from_bytes(signature.try_into().ok()?).ok()?;
    let parsed = SignedCheckpoint {
        note: note.to_owned(),
        checkpoint: Checkpoint { origin, size, head },
        signature,
        key_id: *key_id,
    };
    // One spelling only: leading zeros, further lines and the like are no checkpoint.
    (format!("{text}\n") == parsed.checkpoint.text()).then_some(parsed)
}

fn parse_origin(name: &str) -> Option<Origin> {
    let log = name.strip_prefix(NAME)?;
    let Some((mesh, restart)) = log.split_once('/') else {
        return Some(Origin { mesh: log.parse().ok()?, restart: None });
    };
    let (size, head) = restart.split_once('-')?;
    let restart = LogHead { size: size.parse().ok()?, head: Bytes(head.parse::<Hex<32>>().ok()?.0) };
    Some(Origin { mesh: mesh.parse().ok()?, restart: Some(restart) })
}

const NAME: &str = "carrick.internal/";

/// The key's name is that of its log.
fn key_id(origin: &Origin, key: &CoordinatorKey) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(origin.to_string())
        .chain_update(b"\n")
        .chain_update([ED25519])
        .chain_update(key.as_bytes());
    let digest: Hash = digest.finalize().into();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: Origin = Origin { mesh: MeshId::from_bytes([1; 16]), restart: None };
    const SET_BACK: Origin = Origin { restart: Some(LogHead { size: 7, head: Bytes([0xab; 32]) }), ..ORIGIN };

    fn signed(origin: Origin) -> (SignedCheckpoint, CoordinatorSecret) {
        let key = CoordinatorSecret::from_bytes([2; 32]);
        (Checkpoint { origin, size: 42, head: [3; 32] }.sign(&key), key)
    }

    #[test]
    fn a_checkpoint_is_a_note_that_comes_back() {
        let (signed, key) = signed(ORIGIN);
        let note = signed.to_string();
        assert!(note.starts_with("carrick.internal/aeaqcaibaeaqcaibaeaqcaibae\n42\nAwMDAwMD"), "{note}");
        let parsed: SignedCheckpoint = note.parse().unwrap();
        assert_eq!(parsed.verify(&ORIGIN, &key.public()).unwrap().size, 42);
    }

    #[test]
    fn it_is_worth_nothing_for_another_log_or_key() {
        let (signed, key) = signed(ORIGIN);
        assert_eq!(
            signed.verify(&Origin { mesh: MeshId::from_bytes([9; 16]), ..ORIGIN }, &key.public()),
            Err(CheckpointError::OtherLog)
        );
        let other = CoordinatorSecret::from_bytes([9; 32]).public();
        assert_eq!(signed.verify(&ORIGIN, &other), Err(CheckpointError::Signature));
    }

    #[test]
    fn a_log_that_was_set_back_is_another_one() {
        let (signed, key) = signed(SET_BACK);
        let note = signed.to_string();
        assert!(note.starts_with(&format!(
            "carrick.internal/aeaqcaibaeaqcaibaeaqcaibae/7-{}\n42\n",
            "ab".repeat(32)
        )));
        let parsed: SignedCheckpoint = note.parse().unwrap();
        assert_eq!(parsed.verify(&SET_BACK, &key.public()).unwrap().origin, SET_BACK);
        assert_eq!(parsed.verify(&ORIGIN, &key.public()), Err(CheckpointError::OtherLog));
        let elsewhere = Origin { restart: Some(LogHead { size: 8, head: Bytes([0xab; 32]) }), ..ORIGIN };
        assert_eq!(parsed.verify(&elsewhere, &key.public()), Err(CheckpointError::OtherLog));
        for other in ["/07-", "/-", "/7-AB", "/7--", "/7/7-"] {
            note.replace("/7-", other).parse::<SignedCheckpoint>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn an_altered_note_is_refused(at: prop::sample::Index, flip in 1..=127_u8, set_back: bool) {
            let origin = if set_back { SET_BACK } else { ORIGIN };
            let (signed, key) = signed(origin);
            let mut bytes = signed.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let verified = String::from_utf8(bytes).ok().and_then(|note| note.parse::<SignedCheckpoint>().ok())
                .map(|parsed| parsed.verify(&origin, &key.public()));
            prop_assert!(!matches!(verified, Some(Ok(_))));
        }

        #[test]
        fn junk_never_panics(note: String) {
            let _ = note.parse::<SignedCheckpoint>();
        }
    }
}
