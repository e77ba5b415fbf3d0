//! A key that a passphrase opens: Argon2id (RFC 9106) makes a key of the passphrase, ChaCha20-Poly1305 (RFC 8439) seals with it.

use anyhow::{Context as _, Result, bail, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use carrick_attest::{Blob, Bytes};
use carrick_types::{OperatorKey, OperatorSecret};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Passphrase;

/// What is read: a file that somebody else wrote must not make this take all memory or all day.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;

/// The second of the options that RFC 9106 section 4 recommends.
const WORK: Work = Work { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

/// A key of 32 bytes and its tag.
const MAX_SEALED: usize = 48;

const DOMAIN: &[u8] = b"carrick/operator-key/1";

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealedKey {
    carrick_operator_key: u8,
    public_key: OperatorKey,
    argon2id: Work,
    salt: Bytes<16>,
    nonce: Bytes<12>,
    sealed: Blob<MAX_SEALED>,
}

/// How much it takes to try a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl SealedKey {
    pub(super) fn seal(secret: &OperatorSecret, passphrase: &Passphrase) -> Result<Self> {
        let (public_key, salt, nonce) = (secret.public(), Bytes(random()?), Bytes(random()?));
        let cipher = cipher(passphrase, &salt, WORK)?;
        let aad = associated(&public_key);
        let payload = Payload { msg: secret.expose(), aad: &aad };
        let sealed = cipher.encrypt(Nonce::from_slice(&nonce.0), payload).ok();
        let sealed = Blob::new(sealed.context("the cipher failed")?)?;
        Ok(Self { carrick_operator_key: 1, public_key, argon2id: WORK, salt, nonce, sealed })
    }

    /// Which key it is, which is no secret.
    pub(super) const fn public_key(&self) -> OperatorKey {
        self.public_key
    }

    pub(super) fn open(&self, passphrase: &Passphrase) -> Result<OperatorSecret> {
        ensure!(self.carrick_operator_key == 1, "it was written by a newer carrick: upgrade");
        let cipher = cipher(passphrase, &self.salt, self.argon2id)?;
        let aad = associated(&self.public_key);
        let payload = Payload { msg: self.sealed.as_bytes(), aad: &aad };
        let Ok(opened) = cipher.decrypt(Nonce::from_slice(&self.nonce.0), payload) else {
            bail!(
                "wrong passphrase, or the file was altered: try again, or restore the file from its backup"
            );
        };
        let opened = Zeroizing::new(opened);
        let bytes: &[u8; 32] = opened.as_slice().try_into().context("it holds no key")?;
        let secret = OperatorSecret::from_bytes(*bytes);
        ensure!(secret.public() == self.public_key, "it holds another key than it names");
        Ok(secret)
    }
}

/// What is bound to the sealed key: nobody can put it under another's name.
fn associated(public_key: &OperatorKey) -> Vec<u8> {
    [DOMAIN, public_key.as_bytes()].concat()
}

fn cipher(passphrase: &Passphrase, salt: &Bytes<16>, work: Work) -> Result<ChaCha20Poly1305> {
    let bounded = work.memory_kib <= MAX_MEMORY_KIB && work.passes <= MAX_PASSES && work.lanes <= MAX_LANES;
    let params = bounded.then(|| Params::new(work.memory_kib, work.passes, work.lanes, Some(32)).ok());
    let params = params.flatten().context("it asks for more work, or less, than makes sense")?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.expose(), &salt.0, &mut *key)
        .map_err(|error| anyhow::anyhow!("cannot make a key of the passphrase: {error}"))?;
    Ok(ChaCha20Poly1305::new((&*key).into()))
}

/// From the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from).context("cannot get random bytes")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (OperatorSecret, SealedKey) {
        let secret = OperatorSecret::from_bytes([5; 32]);
        let sealed = SealedKey::seal(&secret, &Passphrase::from("correct horse")).unwrap();
        (secret, sealed)
    }

    #[test]
    fn the_passphrase_opens_the_key_and_no_other_does() {
        let (secret, sealed) = sealed();
        let json = serde_json::to_string(&sealed).unwrap();
        let read: SealedKey = serde_json::from_str(&json).unwrap();
        assert_eq!(read.open(&Passphrase::from("correct horse")).unwrap(), secret);
        let error = read.open(&Passphrase::from("correct  horse")).unwrap_err();
        assert!(error.to_string().starts_with("wrong passphrase"), "{error}");
    }

    #[test]
    fn a_file_that_was_altered_does_not_open() {
        let (_, sealed) = sealed();
        let other = SealedKey { public_key: OperatorSecret::from_bytes([6; 32]).public(), ..sealed };
        other.open(&Passphrase::from("correct horse")).unwrap_err();
    }

    #[test]
    fn a_file_cannot_ask_for_all_memory_and_all_day() {
        let (_, sealed) = sealed();
        for argon2id in [
            Work { memory_kib: u32::MAX, ..WORK },
            Work { passes: u32::MAX, ..WORK },
            Work { lanes: 17, ..WORK },
            Work { memory_kib: 0, ..WORK },
        ] {
            let asked = SealedKey { argon2id, sealed: sealed.sealed.clone(), ..sealed };
            let error = asked.open(&Passphrase::from("correct horse")).unwrap_err();
            assert!(error.to_string().contains("makes sense"), "{error}");
        }
    }

    #[test]
    fn the_file_holds_no_key_in_plain() {
        let (secret, sealed) = sealed();
        let json = serde_json::to_string(&sealed).unwrap();
        assert!(!json.contains(&serde_json::to_string(&Bytes(*secret.expose())).unwrap()));
        assert!(!format!("{sealed:?}").contains("BQUFBQ"));
    }
}
