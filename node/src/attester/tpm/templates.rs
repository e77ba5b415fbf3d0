//! The keys, as templates from which a TPM makes them: `TPMT_PUBLIC` (TCG EK Credential Profile, L-1 and L-2).

use carrick_attest::tpm::{Attributes, ENDORSEMENT_POLICY};

pub(super) const ALG_SHA256: u16 = 0x000b;
pub(super) const ALG_NULL: u16 = 0x0010;
const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_RSASSA: u16 = 0x0014;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;

/// A key that is made from a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Template {
    EndorsementEcc,
    EndorsementRsa,
    AttestationEcc,
    AttestationRsa,
}

impl Template {
    /// The template. The numbers of the key itself are zeros, or nothing, and the TPM puts its own in their place.
    pub(super) fn public(self) -> Vec<u8> {
        let attestation =
            Attributes::ATTESTATION | Attributes::USER_WITH_AUTH | Attributes::NO_DICTIONARY_ATTACKS;
        let policy = [&[0, 32], ENDORSEMENT_POLICY.as_slice()].concat();
        let (algorithm, attributes, policy) = match self {
            Self::EndorsementEcc => (ALG_ECC, Attributes::ENDORSEMENT, policy),
            Self::EndorsementRsa => (ALG_RSA, Attributes::ENDORSEMENT, policy),
            Self::AttestationEcc => (ALG_ECC, attestation, vec![0, 0]),
            Self::AttestationRsa => (ALG_RSA, attestation, vec![0, 0]),
        };
        let zeros = |length: u16| [length.to_be_bytes().to_vec(), vec![0; usize::from(length)]].concat();
        // Symmetric algorithm, scheme, and what comes last: 2048 bits and the default exponent, or a curve and no key derivation.
        let numbers: (&[u16], &[u16], Vec<u8>) = match self {
            Self::EndorsementEcc => {
                (&[ALG_AES, 128, ALG_CFB], &[ALG_NULL, CURVE_P256, ALG_NULL], [zeros(32), zeros(32)].concat())
            }
            Self::EndorsementRsa => (&[ALG_AES, 128, ALG_CFB], &[ALG_NULL, 2048, 0, 0], zeros(256)),
            Self::AttestationEcc => {
                (&[ALG_NULL], &[ALG_ECDSA, ALG_SHA256, CURVE_P256, ALG_NULL], [zeros(0), zeros(0)].concat())
            }
            Self::AttestationRsa => (&[ALG_NULL], &[ALG_RSASSA, ALG_SHA256, 2048, 0, 0], zeros(0)),
        };
        let (symmetric, scheme, unique) = numbers;
        let be = |numbers: &[u16]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>();
        [
            be(&[algorithm, ALG_SHA256]),
            attributes.to_be_bytes().to_vec(),
            policy,
            be(symmetric),
            be(scheme),
            unique,
        ]
        .concat()
    }
}
