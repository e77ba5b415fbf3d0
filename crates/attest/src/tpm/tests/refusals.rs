//! What is refused, one claim at a time.

use carrick_types::UnixTime;

use super::{TRANSCRIPT, forger::Forger, judged, refused};
use crate::{
    Blob, Transcript,
    tpm::{
        Activation, Attributes, Evidence, Keys, MAX_INTERMEDIATES, Name, NotActivated, Policy, appraise,
        proof_of_activation,
    },
};

const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);

/// What is refused of a forger's evidence, with its endorsement key enrolled.
fn forged(change: impl FnOnce(&mut Forger)) -> Option<String> {
    let mut forger = someone();
    change(&mut forger);
    judged(&forger.evidence(), &forger.enrolled(), NOW)
}

#[test]
fn nothing_is_refused_of_what_is_as_it_should_be() {
    assert_eq!(forged(|_| ()), None);
    assert_eq!(forged(|forger| forger.attributes |= Attributes::ADMIN_WITH_POLICY), None);
}

#[test]
fn an_enrolled_key_brings_no_more_certificates_than_any_other() {
    let forger = someone();
    let certificate = Blob::new(vec![0x30; 8]).unwrap();
    let intermediates = vec![certificate; MAX_INTERMEDIATES + 1];
    let evidence = Evidence { intermediates, ..forger.evidence() };
    assert_eq!(judged(&evidence, &forger.enrolled(), NOW).unwrap(), "intermediate certificates");
}

#[test]
fn a_structure_that_no_tpm_generated_is_refused() {
    assert_eq!(forged(|forger| forger.magic = 0xff54_4348).unwrap(), "magic");
    assert_eq!(forged(|forger| forger.magic = 0).unwrap(), "magic");
}

#[test]
fn an_attestation_of_another_type_is_refused() {
    // TPM_ST_ATTEST_CERTIFY, TPM_ST_ATTEST_TIME, TPM_ST_ATTEST_CREATION.
    for kind in [0x8017, 0x8019, 0x801a] {
        assert_eq!(forged(|forger| forger.kind = kind).unwrap(), "type");
    }
}

#[test]
fn an_unrestricted_key_that_signs_a_forged_structure_is_refused() {
    let unrestricted = |forger: &mut Forger| forger.attributes &= !Attributes::RESTRICTED;
    assert_eq!(forged(unrestricted).unwrap(), "attestation key attributes");
}

#[test]
fn a_key_that_could_be_elsewhere_or_do_something_else_is_refused() {
    for missing in
        [Attributes::FIXED_TPM, Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::SIGN]
    {
        assert_eq!(forged(|forger| forger.attributes &= !missing).unwrap(), "attestation key attributes");
    }
    for more in [Attributes::DECRYPT, 1 << 2, 1 << 11, 1 << 19, 1 << 31] {
        assert_eq!(forged(|forger| forger.attributes |= more).unwrap(), "attestation key attributes");
    }
}

#[test]
fn a_quote_for_something_else_is_refused() {
    assert_eq!(forged(|forger| forger.extra_data = vec![8; 32]).unwrap(), "bound to");
    assert_eq!(forged(|forger| forger.extra_data.push(0)).unwrap(), "bound to");
    assert_eq!(forged(|forger| forger.extra_data.clear()).unwrap(), "bound to");
}

#[test]
fn the_bank_of_sha_1_is_refused() {
    let sha1 = |forger: &mut Forger| forger.selection[5] = 0x04;
    assert_eq!(forged(sha1).unwrap(), "pcr bank");
}

#[test]
fn a_second_bank_beside_that_of_sha_256_is_refused() {
    let two = |forger: &mut Forger| {
        forger.selection = vec![0, 0, 0, 2, 0, 0x04, 3, 0, 0, 0, 0, 0x0b, 3, 3, 0, 0];
    };
    assert_eq!(forged(two).unwrap(), "pcr selection");
    let none = |forger: &mut Forger| forger.selection = vec![0; 4];
    assert_eq!(forged(none).unwrap(), "pcr selection");
}

#[test]
fn a_selection_that_is_narrower_than_the_policy_is_refused() {
    let forger = someone();
    let mut policy = forger.enrolled();
    for register in [0, 1, 2] {
        policy.pcrs.insert(register, ["07".repeat(32)].into());
    }
    let appraisal = appraise(&forger.evidence(), &policy, &TRANSCRIPT, NOW);
    assert_eq!(refused(&appraisal).unwrap(), "pcr 2");
    assert_eq!(appraisal.refusal().unwrap().value, "not quoted");
    policy.pcrs.remove(&2);
    assert_eq!(judged(&forger.evidence(), &policy, NOW), None);
}

#[test]
fn a_wrong_register_is_refused_and_names_what_would_be_right() {
    let forger = someone();
    let mut policy = forger.enrolled();
    policy.pcrs.insert(1, ["08".repeat(32), "09".repeat(32)].into());
    let appraisal = appraise(&forger.evidence(), &policy, &TRANSCRIPT, NOW);
    let claim = appraisal.refusal().unwrap();
    assert_eq!((claim.name.as_str(), &claim.value), ("pcr 1", &"07".repeat(32)));
    assert_eq!(claim.reason, format!("{} or {}", "08".repeat(32), "09".repeat(32)));
}

#[test]
fn values_that_were_not_quoted_are_refused() {
    let forger = someone();
    for values in [vec![8; 64], vec![7; 32], vec![7; 96], vec![]] {
        let evidence = Evidence { pcr_values: Blob::new(values).unwrap(), ..forger.evidence() };
        assert_eq!(judged(&evidence, &forger.enrolled(), NOW).unwrap(), "pcr digest");
    }
}

#[test]
fn the_quote_of_another_key_is_refused() {
    let (forger, other) = (someone(), someone());
    let borrowed = Evidence { attestation_key: other.evidence().attestation_key, ..forger.evidence() };
    assert_eq!(judged(&borrowed, &forger.enrolled(), NOW).unwrap(), "signer");
    let stolen = Evidence { signature: other.signing(forger.quote()).signature, ..forger.evidence() };
    assert_eq!(judged(&stolen, &forger.enrolled(), NOW).unwrap(), "signature");
}

#[test]
fn a_key_that_nobody_vouches_for_is_refused() {
    let (forger, other) = (someone(), someone());
    assert_eq!(judged(&forger.evidence(), &other.enrolled(), NOW).unwrap(), "endorsement certificate");
}

#[test]
fn where_attestation_keys_are_named_no_other_is_good() {
    let (forger, other) = (someone(), someone());
    let naming =
        |key: Vec<u8>| Policy { attestation_keys: [Name::of(&key).to_hex()].into(), ..Policy::default() };
    assert_eq!(judged(&forger.evidence(), &naming(forger.attestation_key()), NOW), None, "alone");
    let both = |key| Policy { attestation_keys: naming(key).attestation_keys, ..forger.enrolled() };
    assert_eq!(judged(&forger.evidence(), &both(forger.attestation_key()), NOW), None);
    assert_eq!(judged(&forger.evidence(), &both(other.attestation_key()), NOW).unwrap(), "activation");
    let strange =
        Policy { attestation_keys: naming(forger.attestation_key()).attestation_keys, ..other.enrolled() };
    assert_eq!(judged(&forger.evidence(), &strange, NOW).unwrap(), "endorsement certificate");
}

#[test]
fn a_certificate_leads_to_its_vendor_and_to_no_other() {
    let forger = someone();
    let (der, root) = certified(&forger, |_| ());
    let evidence = Evidence { endorsement_certificate: Some(Blob::new(der).unwrap()), ..forger.evidence() };
    let pinning = |root: String| Policy { endorsement_roots: vec![root], ..Policy::default() };
    assert_eq!(judged(&evidence, &pinning(root.clone()), NOW), None);
    let (_, stranger) = certified(&forger, |_| ());
    assert_eq!(judged(&evidence, &pinning(stranger), NOW).unwrap(), "endorsement");
    let late = UnixTime::from_millis(2_100_000_000_000);
    assert_eq!(judged(&evidence, &pinning(root.clone()), late).unwrap(), "endorsement", "after its time");
    let other = someone();
    let borrowed = Evidence { endorsement_certificate: evidence.endorsement_certificate, ..other.evidence() };
    assert_eq!(judged(&borrowed, &pinning(root), NOW).unwrap(), "endorsement certificate", "of another key");
}

#[test]
fn an_enrolled_key_needs_no_certificate_that_can_be_read() {
    let forger = someone();
    let junk = Evidence { endorsement_certificate: Some(Blob::new(vec![1]).unwrap()), ..forger.evidence() };
    assert_eq!(judged(&junk, &forger.enrolled(), NOW), None);
    let (_, root) = certified(&forger, |_| ());
    let pinning = Policy { endorsement_roots: vec![root], ..Policy::default() };
    assert_eq!(judged(&junk, &pinning, NOW).unwrap(), "endorsement certificate");
}

#[test]
fn a_certificate_for_another_purpose_is_refused() {
    let judge = |change: fn(&mut rcgen::CertificateParams)| {
        let forger = someone();
        let (der, root) = certified(&forger, change);
        let evidence =
            Evidence { endorsement_certificate: Some(Blob::new(der).unwrap()), ..forger.evidence() };
        judged(&evidence, &Policy { endorsement_roots: vec![root], ..Policy::default() }, NOW)
    };
    assert_eq!(judge(|params| params.extended_key_usages = vec![]), None);
    let endorsement = judge(|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    });
    assert_eq!(endorsement, None);
    // tcg-kp-PlatformAttributeCertificate.
    let platform = judge(|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 2])];
    });
    assert_eq!(platform.unwrap(), "extended key usage");
    let authority = judge(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert_eq!(authority.unwrap(), "endorsement certificate", "a certificate authority as a leaf");
}

#[test]
fn a_policy_that_any_tpm_would_meet_is_refused() {
    assert!(Policy::default().check().unwrap_err().contains("any TPM would do"));
    let digest = || ["ab".repeat(32)].into();
    let good = Policy { endorsement_keys: digest(), ..Policy::default() };
    good.check().unwrap();
    for (bad, why) in [
        (Policy { endorsement_keys: ["AB".repeat(32)].into(), ..Policy::default() }, "lower-case"),
        (Policy { pcrs: [(24, digest())].into(), ..good.clone() }, "no PCR 24"),
        (Policy { pcrs: [(0, [].into())].into(), ..good.clone() }, "no value"),
        (Policy { pcrs: [(0, ["ab".to_owned()].into())].into(), ..good.clone() }, "no SHA-256"),
        (Policy { endorsement_roots: vec!["x".to_owned()], ..good.clone() }, "PEM"),
    ] {
        assert!(bad.check().unwrap_err().contains(why), "{bad:?}");
    }
}

fn keys(forger: &Forger) -> Keys {
    let evidence = forger.evidence();
    Keys { endorsement_key: evidence.endorsement_key, attestation_key: evidence.attestation_key }
}

#[test]
fn an_attestation_key_that_was_not_activated_is_refused() {
    let (forger, other) = (someone(), someone());
    let begin = || Activation::new(keys(&forger), &[3; 96]).unwrap().0;
    // What a TPM with these keys recovers is the first third of the randomness.
    let proven = |evidence: Evidence, transcript| Evidence {
        activation: proof_of_activation(&[3; 32], transcript),
        ..evidence
    };
    begin().confirm(&proven(forger.evidence(), &TRANSCRIPT), &TRANSCRIPT).unwrap();
    let quoting = Evidence {
        attestation_key: other.evidence().attestation_key,
        ..proven(forger.evidence(), &TRANSCRIPT)
    };
    assert_eq!(begin().confirm(&quoting, &TRANSCRIPT), Err(NotActivated::OtherKeys));
    let elsewhere = Evidence {
        endorsement_key: other.evidence().endorsement_key,
        ..proven(forger.evidence(), &TRANSCRIPT)
    };
    assert_eq!(begin().confirm(&elsewhere, &TRANSCRIPT), Err(NotActivated::OtherKeys));
    assert_eq!(begin().confirm(&forger.evidence(), &TRANSCRIPT), Err(NotActivated::Secret));
}

#[test]
fn the_credential_of_another_session_is_refused() {
    let forger = someone();
    let yesterday = Evidence { activation: proof_of_activation(&[3; 32], &TRANSCRIPT), ..forger.evidence() };
    let (today, _) = Activation::new(keys(&forger), &[4; 96]).unwrap();
    assert_eq!(today.confirm(&yesterday, &TRANSCRIPT), Err(NotActivated::Secret));
    let (same_secret, _) = Activation::new(keys(&forger), &[3; 96]).unwrap();
    let other = Transcript::from_bytes([8; 64]);
    assert_eq!(same_secret.confirm(&yesterday, &other), Err(NotActivated::Secret), "for other evidence");
}

#[test]
fn no_credential_is_made_for_what_is_no_endorsement_key() {
    let forger = someone();
    let turned = Keys {
        endorsement_key: keys(&forger).attestation_key,
        attestation_key: keys(&forger).endorsement_key,
    };
    Activation::new(turned, &[3; 96]).unwrap_err();
    let mut off_curve = forger.endorsement_key();
    *off_curve.last_mut().unwrap() ^= 1;
    let keys = Keys { endorsement_key: Blob::new(off_curve).unwrap(), ..keys(&forger) };
    Activation::new(keys, &[3; 96]).unwrap_err();
}

/// A forger whose evidence is for the transcript of these tests.
fn someone() -> Forger {
    Forger::new(TRANSCRIPT.short())
}

/// Makes the endorsement key's certificate, by a vendor of its own: the certificate, and the vendor's in PEM.
fn certified(forger: &Forger, change: impl FnOnce(&mut rcgen::CertificateParams)) -> (Vec<u8>, String) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let params = |name: Option<&str>| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        params
    };
    let (mut vendor, vendor_key) = (params(Some("vendor")), KeyPair::generate().unwrap());
    vendor.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = vendor.self_signed(&vendor_key).unwrap();
    // As vendors do: an empty subject.
    let mut leaf = params(None);
    leaf.is_ca = IsCa::ExplicitNoCa;
    change(&mut leaf);
    let point = Point(forger.endorsement_point());
    let certificate = leaf.signed_by(&point, &Issuer::from_params(&vendor, &vendor_key)).unwrap();
    (certificate.der().to_vec(), root.pem())
}

/// A public key on P-256, as a certificate has it.
struct Point<'a>(&'a [u8]);

impl rcgen::PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
