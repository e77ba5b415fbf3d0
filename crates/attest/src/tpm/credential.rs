//! `TPM2_MakeCredential` in software: a secret that only the TPM with both of two keys gives out (Library, Part 1, "Credential
//! Protection", annexes B.10 and C.6).

use std::convert::Infallible;

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt as _, KeyInit as _},
};
use aws_lc_rs::hmac;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use rsa::{
    BoxedUint, Oaep,
    rand_core::{TryCryptoRng, TryRng},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Name, Parameters, Public};
use crate::Blob;

/// What `TPM2_ActivateCredential` takes, each without its outer length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The secret, for who has the seed and the attestation key: `TPMS_ID_OBJECT`.
    pub id_object: Blob<128>,
    /// The seed, encrypted to the endorsement key: the content of `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_seed: Blob<512>,
}

/// Why there is no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not a key that this is for.
    #[error("this is not an endorsement key after one of the TCG's templates")]
    NotEndorsement,
    /// A point that is not on its curve, or a modulus that is none.
    #[error("the endorsement key is none")]
    Key,
}

/// Makes a credential. `random` is used up: it must be fresh for each.
///
/// # Errors
/// [`CredentialError`].
pub fn make_credential(
    endorsement: &Public,
    attestation: &Name,
    secret: &[u8; 32],
    random: &[u8; 64],
) -> Result<Credential, CredentialError> {
    if !endorsement.is_endorsement() {
        return Err(CredentialError::NotEndorsement);
    }
    let (seed, encrypted_seed) = match &endorsement.parameters {
        Parameters::Rsa(modulus) => rsa_seed(modulus, random)?,
        Parameters::P256(x, y) => p256_seed(x, y, random)?,
        Parameters::P384(..) => return Err(CredentialError::NotEndorsement),
    };
    let key = kdfa(&seed, "STORAGE", &attestation.0, 128);
    let mut identity = [&[0, 32], secret.as_slice()].concat();
    cfb_encrypt(&key[..16].try_into().map_err(|_| CredentialError::Key)?, &mut identity);
    let integrity = hmac::Key::new(hmac::HMAC_SHA256, &kdfa(&seed, "INTEGRITY", &[], 256));
    let tag = hmac::sign(&integrity, &[identity.as_slice(), &attestation.0].concat());
    let id_object = [&[0, 32], tag.as_ref(), &identity].concat();
    Ok(Credential { id_object: blob(id_object)?, encrypted_seed: blob(encrypted_seed)? })
}

fn blob<const MAX: usize>(bytes: Vec<u8>) -> Result<Blob<MAX>, CredentialError> {
    Blob::new(bytes).map_err(|_| CredentialError::Key)
}

/// A random seed, by RSA-OAEP.
fn rsa_seed(modulus: &[u8], random: &[u8; 64]) -> Result<([u8; 32], Vec<u8>), CredentialError> {
    let (seed, masks) = random.split_first_chunk::<32>().ok_or(CredentialError::Key)?;
    let modulus = BoxedUint::from_be_slice_vartime(modulus);
    let key = rsa::PublicKey::new(modulus, BoxedUint::from(65_537_u32)).map_err(|_| CredentialError::Key)?;
    let padding = Oaep::<rsa::sha2::Sha256>::new_with_label(*b"IDENTITY\0");
    let encrypted = key.encrypt(&mut Given(masks), padding, seed).map_err(|_| CredentialError::Key)?;
    Ok((*seed, encrypted))
}

/// A seed that both sides agree on, by ECDH with a key that is used once.
fn p256_seed(x: &[u8; 32], y: &[u8; 32], random: &[u8; 64]) -> Result<([u8; 32], Vec<u8>), CredentialError> {
    let theirs = [&[0x04], x.as_slice(), y].concat();
    let theirs = p256::PublicKey::from_sec1_bytes(&theirs).map_err(|_| CredentialError::Key)?;
    // One of 2^32 random numbers is none below the order; two of them never are.
    let ours = random.chunks_exact(32).find_map(|random| p256::SecretKey::from_slice(random).ok());
    let ours = ours.ok_or(CredentialError::Key)?;
    let shared = p256::ecdh::diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
    let point = ours.public_key().to_sec1_point(false);
    let (our_x, our_y) =
        point.as_bytes().get(1..).and_then(|xy| xy.split_at_checked(32)).ok_or(CredentialError::Key)?;
    let seed = kdfe(shared.raw_secret_bytes(), "IDENTITY", our_x, x);
    Ok((seed, [&[0, 32], our_x, &[0, 32], our_y].concat()))
}

/// KDFa of SHA-256 with one context; at most one block.
fn kdfa(key: &[u8], label: &str, context: &[u8], bits: u32) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let block = [&1_u32.to_be_bytes(), label.as_bytes(), &[0], context, &bits.to_be_bytes()].concat();
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&key, &block).as_ref());
    out
}

/// KDFe of SHA-256; one block.
fn kdfe(shared: &[u8], label: &str, party_u: &[u8], party_v: &[u8]) -> [u8; 32] {
    let block = [&1_u32.to_be_bytes(), shared, label.as_bytes(), &[0], party_u, party_v];
    block.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

/// AES-128 in CFB mode, from a block of zeros on.
fn cfb_encrypt(key: &[u8; 16], text: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    let mut register = [0; 16];
    for block in text.chunks_mut(16) {
        let mut stream = register.into();
        cipher.encrypt_block(&mut stream);
        block.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
        register[..block.len()].copy_from_slice(block);
    }
}

/// Randomness that was given. Whoever asks for more than there is gets an error's worth of zeros, and never does: OAEP asks for
/// as much as its hash is long.
struct Given<'a>(&'a [u8]);

impl TryRng for Given<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let (given, rest) = self.0.split_at(out.len().min(self.0.len()));
        out[..given.len()].copy_from_slice(given);
        self.0 = rest;
        Ok(())
    }
}

impl TryCryptoRng for Given<'_> {}
