//! The appraisal of a quote.

use carrick_types::UnixTime;
use sha2::{Digest as _, Sha256};

use super::{Evidence, MAX_CERTIFICATE, MAX_INTERMEDIATES, Policy, Public, Quote, Signature};
use crate::{
    Appraisal, Blob, Kind, Transcript,
    hex::hex,
    x509::{Certificate, X509Error},
};

const EXTENDED_KEY_USAGE: &str = "2.5.29.37";

/// `tcg-kp-EKCertificate`, 2.23.133.8.1, in DER.
const EK_CERTIFICATE: [u8; 7] = [0x06, 0x05, 0x67, 0x81, 0x05, 0x08, 0x01];

/// Appraises evidence that is bound to `transcript`, as of `at`.
///
/// That endorsement and attestation key are of one TPM is not in the evidence: see [`Policy::attestation_keys`].
pub fn appraise(evidence: &Evidence, policy: &Policy, transcript: &Transcript, at: UnixTime) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::Tpm);
    let Some(endorsement) = key(&mut appraisal, "endorsement key", evidence.endorsement_key.as_bytes())
    else {
        return appraisal;
    };
    let template = endorsement.is_endorsement();
    let attributes = endorsement.attributes.to_string();
    appraisal.check("endorsement key template", attributes, template, "one of the TCG's, L-1 or L-2");
    check_endorsement(&mut appraisal, evidence, &endorsement, policy, at);
    let Some(attestation) = key(&mut appraisal, "attestation key", evidence.attestation_key.as_bytes())
    else {
        return appraisal;
    };
    let attributes = attestation.attributes.to_string();
    let expected = "restricted, signs by one scheme, made in the TPM, and never leaves it";
    appraisal.check("attestation key attributes", attributes, attestation.is_attestation(), expected);
    check_activation(&mut appraisal, &attestation, policy);
    let quote = match Quote::parse(evidence.quote.as_bytes()) {
        Ok(quote) => quote,
        Err((claim, value, expected)) => {
            appraisal.refuse(claim, value, expected);
            return appraisal;
        }
    };
    check_quote(&mut appraisal, evidence, &attestation, &quote, transcript);
    check_registers(&mut appraisal, evidence, &quote, policy);
    let clock = quote.clock;
    appraisal.show("reset count", clock.reset_count.to_string());
    appraisal.show("restart count", clock.restart_count.to_string());
    appraisal.show("clock", format!("{} ms{}", clock.clock, if clock.safe { "" } else { ", not safe" }));
    appraisal.show("firmware", format!("{:#018x}", quote.firmware_version));
    appraisal
}

fn key(appraisal: &mut Appraisal, claim: &str, bytes: &[u8]) -> Option<Public> {
    match Public::parse(bytes) {
        Ok(public) => {
            appraisal.show(claim, format!("{} {}", public.algorithm(), public.name().to_hex()));
            Some(public)
        }
        Err(error) => {
            appraisal.refuse(claim, error.to_string(), "the public area of a key");
            None
        }
    }
}

/// The endorsement key is enrolled, or a vendor that the operator believes made its certificate. Where neither is asked for, or the key is
/// enrolled, its certificate may be of any kind: that may be why it was enrolled.
fn check_endorsement(
    appraisal: &mut Appraisal,
    evidence: &Evidence,
    key: &Public,
    policy: &Policy,
    at: UnixTime,
) {
    if evidence.intermediates.len() > MAX_INTERMEDIATES {
        let count = evidence.intermediates.len().to_string();
        appraisal.refuse("intermediate certificates", count, format!("at most {MAX_INTERMEDIATES}"));
        return;
    }
    if policy.endorsement_keys.contains(&key.name().to_hex()) {
        appraisal.accept("endorsement", "enrolled", "one of the endorsement keys that the operator names");
        return;
    }
    if policy.endorsement_roots.is_empty() && policy.endorsement_keys.is_empty() {
        appraisal.show("endorsement", "not asked for: attestation keys are named");
        return;
    }
    let claim = "endorsement certificate";
    let Some(der) = &evidence.endorsement_certificate else {
        appraisal.refuse(claim, "none", "one of a pinned root, or an enrolled endorsement key");
        return;
    };
    let parse = |der: &Blob<MAX_CERTIFICATE>| Certificate::parse(der.as_bytes());
    let intermediates: Result<Vec<_>, X509Error> = evidence.intermediates.iter().map(parse).collect();
    let (leaf, intermediates) = match (parse(der), intermediates) {
        (Ok(leaf), Ok(intermediates)) => (leaf, intermediates),
        (Err(error), _) | (_, Err(error)) => {
            appraisal.refuse(claim, error.to_string(), "certificates");
            return;
        }
    };
    let same = *leaf.public_key() == key.to_x509();
    appraisal.check(claim, leaf.subject(), same, "that of the endorsement key");
    if leaf.is_ca() {
        appraisal.refuse(claim, "a certificate authority's", "an endorsement key's");
    }
    if let Some(usage) = leaf.extension(EXTENDED_KEY_USAGE) {
        let usable = usage.windows(EK_CERTIFICATE.len()).any(|window| window == EK_CERTIFICATE);
        appraisal.check("extended key usage", hex(usage), usable, "tcg-kp-EKCertificate, 2.23.133.8.1");
    }
    let path = policy.roots().map_err(|_| "the roots cannot be read".to_owned()).and_then(|roots| {
        let path = leaf.path_to(&intermediates, &roots, at).map_err(|error| error.to_string())?;
        Ok(path.last().map(|root| root.subject().to_owned()).unwrap_or_default())
    });
    match path {
        Ok(root) => appraisal.accept("endorsement", root, "a pinned root"),
        Err(error) => appraisal.refuse("endorsement", error, "a path to a pinned root, or an enrolled key"),
    }
}

/// What only the coordinator saw, unless the operator vouches for the key.
fn check_activation(appraisal: &mut Appraisal, key: &Public, policy: &Policy) {
    if policy.attestation_keys.is_empty() {
        appraisal.show("activation", "the coordinator's word");
    } else {
        let name = key.name().to_hex();
        let enrolled = policy.attestation_keys.contains(&name);
        appraisal.check("activation", name, enrolled, "one of the attestation keys that the operator names");
    }
}

fn check_quote(
    appraisal: &mut Appraisal,
    evidence: &Evidence,
    key: &Public,
    quote: &Quote,
    transcript: &Transcript,
) {
    appraisal.accept("type", "quote", "made by the TPM itself");
    let bound = quote.extra_data == transcript.short();
    appraisal.check("bound to", hex(&quote.extra_data), bound, "this session, these keys and this moment");
    // A key of another hierarchy would blind the counters; one without this name has other attributes than it shows.
    let signer = quote.signer == key.name().qualified_as_primary().0;
    appraisal.check(
        "signer",
        hex(&quote.signer),
        signer,
        "the attestation key, of the endorsement hierarchy",
    );
    let signed = Signature::parse(evidence.signature.as_bytes())
        .is_ok_and(|signature| signature.is_by(key, evidence.quote.as_bytes()));
    appraisal.check("signature", key.algorithm(), signed, "the attestation key's, by its scheme");
}

fn check_registers(appraisal: &mut Appraisal, evidence: &Evidence, quote: &Quote, policy: &Policy) {
    let values = evidence.pcr_values.as_bytes();
    let whole = values.len() == quote.selection.registers().count() * 32;
    let digest = Sha256::digest(values);
    let same = whole && digest.as_slice() == quote.pcr_digest;
    appraisal.check("pcr digest", hex(&quote.pcr_digest), same, "the digest of the values that are shown");
    for register in policy.pcrs.keys().filter(|register| !quote.selection.has(**register)) {
        appraisal.refuse(&format!("pcr {register}"), "not quoted", "a register that the policy names");
    }
    for (register, value) in quote.selection.registers().zip(values.chunks_exact(32)) {
        let (claim, value) = (format!("pcr {register}"), hex(value));
        match policy.pcrs.get(&register) {
            Some(good) => {
                let verdict = good.contains(&value);
                let expected = good.iter().map(String::as_str).collect::<Vec<_>>().join(" or ");
                appraisal.check(&claim, value, verdict, expected);
            }
            None => appraisal.show(&claim, value),
        }
    }
}
