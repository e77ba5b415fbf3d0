//! Nitro documents that must be accepted, and all the ways in which they must not.

use carrick_attest::{
    Appraisal, Blob, Hex, MAX_SKEW, Statement, Transcript, Verdict,
    nitro::{Evidence, MAX_DOCUMENT, Policy, appraise, learn},
    sev_snp,
};
use proptest::prelude::*;

use crate::{
    NOW, TRANSCRIPT, amd, assert_reasons,
    aws::{self, Enclave, PCR0},
    der::{self, Key, P384},
    refused, verdict,
};

fn judge(document: &[u8], policy: &Policy) -> Appraisal {
    let appraisal = appraise(&aws::evidence(document), policy, &TRANSCRIPT, NOW);
    assert_reasons(&appraisal);
    appraisal
}

/// What is refused of an enclave that was bent before it was signed, under a policy that pins its root as it was.
fn refused_of(bend: impl FnOnce(&mut Enclave)) -> Vec<String> {
    let mut enclave = Enclave::new();
    let policy = enclave.policy();
    bend(&mut enclave);
    let appraisal = judge(&enclave.document(), &policy);
    refused(&appraisal).into_iter().map(str::to_owned).collect()
}

#[test]
fn an_enclave_is_accepted() {
    let enclave = Enclave::new();
    let policy = enclave.policy();
    let appraisal = judge(&enclave.document(), &policy);
    assert_eq!(refused(&appraisal), [""; 0]);
    assert!(appraisal.is_accepted());
    assert_eq!(verdict(&appraisal, "pcr 0"), Some(Verdict::Accepted));
    assert_eq!(verdict(&appraisal, "pcr 1"), Some(Verdict::Unchecked), "the policy does not ask");
}

#[test]
fn an_enclave_in_debug_mode_is_refused() {
    let zero = |enclave: &mut Enclave| {
        for (_, value) in &mut enclave.fields.pcrs {
            *value = vec![0; 48];
        }
    };
    assert_eq!(refused_of(zero), ["debug", "pcr 0"]);
    assert_eq!(refused_of(|enclave| drop(enclave.fields.pcrs.remove(0))), ["debug", "pcr 0"]);
}

#[test]
fn a_root_that_is_not_pinned_is_refused() {
    let stranger = Enclave::new();
    let policy = stranger.policy();
    let mut enclave = Enclave::new();
    assert_eq!(refused(&judge(&enclave.document(), &policy)), ["root"], "the same name, another key");
    enclave.root = stranger.root;
    assert_eq!(refused(&judge(&enclave.document(), &policy)), ["chain"], "it issued none of this");
}

#[test]
fn a_self_signed_certificate_is_refused() {
    let oneself = |enclave: &mut Enclave| {
        enclave.leaf.issuer = enclave.leaf.subject.clone();
        let key = Key::p384();
        enclave.leaf.key = key.info();
        enclave.middle_key = key;
    };
    assert_eq!(refused_of(oneself), ["chain"]);
}

#[test]
fn an_expired_or_early_certificate_is_refused() {
    for (from, to) in [("260630200000Z", "260630235959Z"), ("260701000001Z", "260701030000Z")] {
        let bent = |enclave: &mut Enclave| {
            (enclave.leaf.from, enclave.leaf.to) = (from.to_owned(), to.to_owned());
        };
        assert_eq!(refused_of(bent), ["validity"]);
    }
    assert_eq!(refused_of(|enclave| enclave.middle.to = "260630235959Z".to_owned()), ["validity"]);
}

#[test]
fn an_authority_is_no_enclave_and_an_enclave_no_authority() {
    let ca = |enclave: &mut Enclave| enclave.leaf.extensions = der::authority();
    assert_eq!(refused_of(ca), ["certificate"]);
    assert_eq!(refused_of(|enclave| enclave.middle.extensions.clear()), ["chain"]);
}

#[test]
fn keys_and_algorithms_that_aws_does_not_use_are_refused() {
    let rsa = |enclave: &mut Enclave| enclave.leaf.key = amd::ask_key().info();
    assert_eq!(refused_of(rsa), ["certificate"]);
    let signed_by_rsa = |enclave: &mut Enclave| {
        enclave.middle_key = Key::rsa_pss(include_bytes!("vectors/short.pk8"));
        enclave.middle.key = enclave.middle_key.info();
    };
    assert_eq!(refused_of(signed_by_rsa), ["certificate"]);
}

#[test]
fn a_swapped_algorithm_is_refused() {
    // ES256, ES512, PS384, HS256, none at all: signed as if that were so.
    for protected in [&[0xa1, 1, 0x26][..], &[0xa1, 1, 0x38, 0x23], &[0xa1, 1, 0x38, 0x25], &[0xa1, 1, 5]] {
        assert_eq!(refused_of(|enclave| enclave.protected = protected.to_vec()), ["algorithm"]);
    }
    for protected in [&[][..], &[0xa0], &[0xa2, 1, 0x38, 0x22, 4, 0x40]] {
        assert_eq!(refused_of(|enclave| enclave.protected = protected.to_vec()), ["document"]);
    }
    assert_eq!(refused_of(|enclave| enclave.fields.digest = "SHA256"), ["document"]);
}

#[test]
fn a_document_that_another_key_signed_is_refused() {
    assert_eq!(refused_of(|enclave| enclave.leaf_key = P384::generate()), ["signature"]);
}

#[test]
fn a_bundle_with_a_gap_a_spare_certificate_or_none_is_refused() {
    let spare = |enclave: &mut Enclave| {
        let key = Key::p384();
        enclave.fields.spare = vec![amd::authority("root", "spare", 4, &key).sign(&enclave.root_key)];
    };
    assert_eq!(refused_of(spare), ["chain"]);
    let twice = |enclave: &mut Enclave| {
        enclave.fields.spare = vec![enclave.middle.sign(&enclave.root_key)];
    };
    assert_eq!(refused_of(twice), ["chain"]);
    let gap = |enclave: &mut Enclave| enclave.leaf.issuer = "between".to_owned();
    assert_eq!(refused_of(gap), ["chain"]);
    let many = |enclave: &mut Enclave| {
        enclave.fields.spare = vec![enclave.middle.sign(&enclave.root_key); 5];
    };
    assert_eq!(refused_of(many), ["document"]);
    let junk = |enclave: &mut Enclave| enclave.fields.spare = vec![vec![0x30; 9]];
    assert_eq!(refused_of(junk), ["chain"]);
}

#[test]
fn a_document_of_another_time_is_refused() {
    let skew = u64::try_from(MAX_SKEW.as_millis()).unwrap();
    for near in [NOW.as_millis() - skew, NOW.as_millis() + skew] {
        assert!(refused_of(|enclave| enclave.fields.timestamp = near).is_empty());
    }
    for far in [NOW.as_millis() - skew - 1, NOW.as_millis() + skew + 1, 1 << 32, u64::MAX] {
        assert_eq!(refused_of(|enclave| enclave.fields.timestamp = far), ["timestamp"]);
    }
}

#[test]
fn a_register_that_the_policy_does_not_take_is_refused() {
    assert_eq!(refused_of(|enclave| enclave.fields.pcrs[0].1 = vec![0x12; 48]), ["pcr 0"]);
    let enclave = Enclave::new();
    let mut policy = enclave.policy();
    policy.pcrs.insert(8, [Hex([1; 48])].into());
    let appraisal = judge(&enclave.document(), &policy);
    assert_eq!(refused(&appraisal), ["pcr 8"], "which is not there");
}

#[test]
fn a_document_that_is_bound_to_another_transcript_is_refused() {
    let enclave = Enclave::new();
    let policy = enclave.policy();
    let evidence = aws::evidence(&enclave.document());
    for at in 0..64 {
        let mut other = *TRANSCRIPT.as_bytes();
        other[at] ^= 1;
        let appraisal = appraise(&evidence, &policy, &Transcript::from_bytes(other), NOW);
        assert_eq!(refused(&appraisal), ["user data"], "all 64 bytes count");
    }
    let short = TRANSCRIPT.short().to_vec();
    assert!(refused_of(|enclave| enclave.fields.nonce = Some(short.clone())).is_empty());
    assert!(refused_of(|enclave| enclave.fields.nonce = Some(vec![])).is_empty());
    assert_eq!(refused_of(|enclave| enclave.fields.nonce = Some(vec![1; 32])), ["nonce"]);
    assert_eq!(refused_of(|enclave| enclave.fields.user_data = Some(short.clone())), ["user data"]);
    assert_eq!(refused_of(|enclave| enclave.fields.user_data = None), ["user data"]);
}

#[test]
fn a_flipped_bit_at_any_byte_is_refused() {
    let enclave = Enclave::new();
    let policy = enclave.policy();
    let document = enclave.document();
    assert!(judge(&document, &policy).is_accepted());
    for at in 0..document.len() {
        let mut bent = document.clone();
        bent[at] ^= 1 << (at % 8);
        assert!(!judge(&bent, &policy).is_accepted(), "byte {at}");
    }
}

#[test]
fn what_is_cut_or_has_something_behind_it_is_refused() {
    let enclave = Enclave::new();
    let policy = enclave.policy();
    let document = enclave.document();
    for end in 0..document.len() {
        assert_eq!(refused(&judge(&document[..end], &policy)), ["document"]);
    }
    assert_eq!(refused(&judge(&[&document[..], &[0]].concat(), &policy)), ["document"]);
    assert_eq!(refused(&judge(&[&[0xd2], &document[..]].concat(), &policy)), ["document"], "a tag");
}

#[test]
fn a_nesting_bomb_and_huge_declared_lengths_are_refused() {
    let policy = Enclave::new().policy();
    for opener in [0x81, 0xa1, 0xc6, 0xd8, 0x9f, 0xbf, 0x5f] {
        assert_eq!(refused(&judge(&vec![opener; MAX_DOCUMENT], &policy)), ["document"]);
    }
    let huge = [0xff; 8];
    for head in [
        &[0x9b][..],
        &[0x84, 0x5b],
        &[0x84, 0x44, 0xa1, 1, 0x38, 0x22, 0xbb],
        &[0x84, 0x44, 0xa1, 1, 0x38, 0x22, 0xa0, 0x5b],
    ] {
        assert_eq!(refused(&judge(&[head, &huge].concat(), &policy)), ["document"]);
    }
}

#[test]
fn a_hundred_megabytes_are_refused_before_they_are_parsed() {
    let json = format!(r#"{{"document":"{}"}}"#, "A".repeat(100_000_000));
    assert!(serde_json::from_str::<Evidence>(&json).unwrap_err().to_string().contains("more than 16384"));
    assert!(Statement::from_text(&json).is_none());
    assert!(Blob::<MAX_DOCUMENT>::new(vec![0; 100_000_000]).is_err());
}

#[test]
fn evidence_of_another_kind_is_refused() {
    let document = Enclave::new().document();
    assert!(Blob::<{ sev_snp::REPORT_SIZE }>::new(document.clone()).is_err(), "too long for a report");
    let cut = amd::evidence(&document[..sev_snp::REPORT_SIZE], &document[..900]);
    let appraisal = sev_snp::appraise(&cut, &amd::policy(), &TRANSCRIPT, NOW);
    assert_eq!(refused(&appraisal), ["report version"]);
}

#[test]
fn what_an_enclave_shows_is_learnt_and_then_accepted() {
    let mut enclave = Enclave::new();
    enclave.fields.pcrs.extend([(4, vec![0x44; 48]), (8, vec![0x88; 48])]);
    let mut draft = enclave.policy();
    draft.pcrs.clear();
    let document = enclave.document();
    learn(&aws::evidence(&document), &mut draft);
    let learnt: Vec<u8> = draft.pcrs.keys().copied().collect();
    assert_eq!(learnt, [0, 1, 2, 8], "the image, and not the instance");
    draft.check().unwrap();
    assert!(judge(&document, &draft).is_accepted());
    let mut debug = Enclave::new();
    debug.fields.pcrs[0].1 = vec![0; 48];
    let mut untouched = Policy::default();
    learn(&debug.evidence(), &mut untouched);
    learn(&aws::evidence(b"junk"), &mut untouched);
    assert_eq!(untouched, Policy::default());
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_the_reason() {
    let good = Enclave::new().policy();
    good.check().unwrap();
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), good);
    serde_json::from_str::<Policy>(r#"{"roots":"","prcs":{}}"#).unwrap_err();
    let why = |bend: &dyn Fn(&mut Policy)| {
        let mut policy = good.clone();
        bend(&mut policy);
        policy.check().unwrap_err()
    };
    assert!(why(&|policy| policy.roots.clear()).contains("`roots` is empty"));
    assert!(why(&|policy| policy.roots.truncate(99)).contains("`roots`"));
    let amds = der::pem(&amd::Line::of(sev_snp::Product::Milan).ark);
    assert!(why(&|policy| policy.roots.clone_from(&amds)).contains("P-384"));
    assert!(why(&|policy| policy.pcrs.clear()).contains("any image would do"));
    assert!(why(&|policy| policy.pcrs.entry(1).or_default().clear()).contains("nothing would do"));
    assert!(why(&|policy| drop(policy.pcrs.insert(32, [Hex(PCR0)].into()))).contains("no pcr 32"));
    assert!(why(&|policy| drop(policy.pcrs.insert(0, [Hex([0; 48])].into()))).contains("debug"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn whatever_is_shown_nothing_panics(document in proptest::collection::vec(any::<u8>(), 0..600)) {
        let policy = Policy::default();
        prop_assert!(!appraise(&aws::evidence(&document), &policy, &TRANSCRIPT, NOW).is_accepted());
    }
}
