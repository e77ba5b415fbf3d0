//! Signed heads of the log: C2SP's `tlog-checkpoint` in a `signed-note` (<https://c2sp.org/tlog-checkpoint>).

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use carrick_types::{CoordinatorKey, CoordinatorSecret, MeshId, Signature};
use sha2::{Digest as _, Sha256};

use super::tree::Hash;

/// The longest signed checkpoint that is read, in bytes.
const MAX_LENGTH: usize = 4096;

/// The algorithm byte of Ed25519 in a signed note's key id.
const ED25519: u8 = 1;

/// The head of a mesh's log at some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose log.
    pub mesh: MeshId,
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
    #[error("the checkpoint is of another mesh's log")]
    OtherLog,
    /// Not signed by the key that was asked for.
    #[error("the checkpoint is not signed by the coordinator's key")]
    Signature,
}

impl Checkpoint {
    /// The note's text: what is signed.
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", origin(self.mesh), self.size, STANDARD.encode(self.head))
    }

    /// Signs it with the coordinator's signing key.
    pub fn sign(&self, key: &CoordinatorSecret) -> SignedCheckpoint {
        let text = self.text();
        let signature = key.sign(text.as_bytes());
        let key_id = key_id(&origin(self.mesh), &key.public());
        let mut stamp = key_id.to_vec();
        stamp.extend_from_slice(signature.as_bytes());
        let note = format!("{text}\n\u{2014} {} {}\n", origin(self.mesh), STANDARD.encode(stamp));
        SignedCheckpoint { note, checkpoint: *self, signature, key_id }
    }
}

impl SignedCheckpoint {
    /// The mesh whose log it claims to be of.
    pub const fn mesh(&self) -> MeshId {
        self.checkpoint.mesh
    }

    /// The checkpoint, if it is of this mesh's log and this key signed it.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn verify(&self, mesh: MeshId, key: &CoordinatorKey) -> Result<Checkpoint, CheckpointError> {
        if self.checkpoint.mesh != mesh {
            return Err(CheckpointError::OtherLog);
        }
        let signed = self.key_id == key_id(&origin(mesh), key)
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
    let mesh: MeshId = name.strip_prefix(ORIGIN)?.parse().ok()?;
    let size: u64 = size.parse().ok()?;
    let head: Hash = STANDARD.decode(head).ok()?.try_into().ok()?;
    let stamp =
        signatures.strip_suffix('\n')?.strip_prefix("\u{2014} ")?.strip_prefix(name)?.strip_prefix(' ')?;
    let stamp = STANDARD.decode(stamp).ok()?;
    let (key_id, signature) = stamp.split_first_chunk::<4>()?;
    let signature = Signature::from_bytes(signature.try_into().ok()?).ok()?;
    let parsed = SignedCheckpoint {
        note: note.to_owned(),
        checkpoint: Checkpoint { mesh, size, head },
        signature,
        key_id: *key_id,
    };
    // One spelling only: leading zeros, further lines and the like are no checkpoint.
    (format!("{text}\n") == parsed.checkpoint.text()).then_some(parsed)
}

const ORIGIN: &str = "carrick.internal/";

/// The log's name, and its key's.
fn origin(mesh: MeshId) -> String {
    format!("{ORIGIN}{mesh}")
}

fn key_id(name: &str, key: &CoordinatorKey) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(name)
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

    fn mesh() -> MeshId {
        MeshId::from_bytes([1; 16])
    }

    fn signed() -> (SignedCheckpoint, CoordinatorSecret) {
        let key = CoordinatorSecret::from_bytes([2; 32]);
        (Checkpoint { mesh: mesh(), size: 42, head: [3; 32] }.sign(&key), key)
    }

    #[test]
    fn a_checkpoint_is_a_note_that_comes_back() {
        let (signed, key) = signed();
        let note = signed.to_string();
        assert!(note.starts_with("carrick.internal/aeaqcaibaeaqcaibaeaqcaibae\n42\nAwMDAwMD"), "{note}");
        let parsed: SignedCheckpoint = note.parse().unwrap();
        assert_eq!(parsed.verify(mesh(), &key.public()).unwrap().size, 42);
    }

    #[test]
    fn it_is_worth_nothing_for_another_log_or_key() {
        let (signed, key) = signed();
        assert_eq!(signed.verify(MeshId::from_bytes([9; 16]), &key.public()), Err(CheckpointError::OtherLog));
        let other = CoordinatorSecret::from_bytes([9; 32]).public();
        assert_eq!(signed.verify(mesh(), &other), Err(CheckpointError::Signature));
    }

    proptest! {
        #[test]
        fn an_altered_note_is_refused(at: prop::sample::Index, flip in 1..=127_u8) {
            let (signed, key) = signed();
            let mut bytes = signed.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let verified = String::from_utf8(bytes).ok().and_then(|note| note.parse::<SignedCheckpoint>().ok())
                .map(|parsed| parsed.verify(mesh(), &key.public()));
            prop_assert!(!matches!(verified, Some(Ok(_))));
        }

        #[test]
        fn junk_never_panics(note: String) {
            let _ = note.parse::<SignedCheckpoint>();
        }
    }
}
