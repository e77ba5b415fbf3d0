//! SEV-SNP reports that must be accepted, and all the ways in which they must not.

use carrick_attest::{
    Appraisal, Blob, Evidence as AnyEvidence, Hex, Statement, Transcript, Verdict, nitro,
    sev_snp::{Evidence, Policy, Product, REPORT_SIZE, appraise, learn},
};
use proptest::prelude::*;

use crate::{
    NOW, TRANSCRIPT,
    amd::{self, CHIP_ID, Guest, HARDWARE_ID, Line, MEASUREMENT, PROVIDER_ID, ark_key, ask_key, tcb},
    assert_reasons,
    der::{self, Key, P384, tlv},
    refused, verdict,
};

fn judge(guest: &Guest, policy: &Policy) -> Appraisal {
    let appraisal = appraise(&guest.evidence(), policy, &TRANSCRIPT, NOW);
    assert_reasons(&appraisal);
    appraisal
}

/// What is refused of a Milan guest that was bent before it was signed.
fn refused_of(bend: impl FnOnce(&mut Guest)) -> Vec<String> {
    refused_under(&amd::policy(), bend)
}

fn refused_under(policy: &Policy, bend: impl FnOnce(&mut Guest)) -> Vec<String> {
    let mut guest = Line::of(Product::Milan).guest();
    bend(&mut guest);
    refused(&judge(&guest, policy)).into_iter().map(str::to_owned).collect()
}

#[test]
fn a_guest_is_accepted_on_every_line_and_by_every_version_of_the_report() {
    for (product, version) in [(Product::Milan, "2"), (Product::Genoa, "3"), (Product::Turin, "5")] {
        let appraisal = judge(&Line::of(product).guest(), &amd::policy());
        assert_eq!(refused(&appraisal), [""; 0], "{product}");
        assert!(appraisal.is_accepted());
        let shown = appraisal.claims.iter().find(|claim| claim.name == "report version").unwrap();
        assert_eq!(shown.value, version);
        assert_eq!(verdict(&appraisal, "chip id"), Some(Verdict::Accepted));
    }
}

#[test]
fn a_guest_of_a_provider_is_accepted_where_the_policy_takes_the_provider() {
    let guest = Line::of(Product::Genoa).guest_of_provider();
    let any = judge(&guest, &amd::policy());
    assert!(any.is_accepted());
    assert_eq!(verdict(&any, "provider"), Some(Verdict::Unchecked));
    let named = Policy { providers: ["CN=cloud.example".to_owned()].into(), ..amd::policy() };
    assert_eq!(verdict(&judge(&guest, &named), "provider"), Some(Verdict::Accepted));
    let other = Policy { providers: ["CN=other.example".to_owned()].into(), ..amd::policy() };
    assert_eq!(refused(&judge(&guest, &other)), ["provider"]);
}

#[test]
fn a_guest_that_its_host_may_debug_is_refused() {
    assert_eq!(refused_of(|guest| guest.set(0x0a, &[0x0a])), ["debug"]);
}

#[test]
fn a_report_that_a_less_privileged_level_or_the_host_asked_for_is_refused() {
    assert_eq!(refused_of(|guest| guest.set(0x30, &[1])), ["VMPL"]);
    assert_eq!(refused_of(|guest| guest.set(0x30, &[0xff; 4])), ["VMPL"]);
    let lower = Policy { max_vmpl: 1, ..amd::policy() };
    assert!(refused_under(&lower, |guest| guest.set(0x30, &[1])).is_empty());
    assert_eq!(refused_under(&lower, |guest| guest.set(0x30, &[2])), ["VMPL"]);
}

#[test]
fn a_guest_that_may_migrate_or_share_its_core_is_refused_unless_the_policy_allows_it() {
    assert_eq!(refused_of(|guest| guest.set(0x0a, &[0x06])), ["migration agent"]);
    assert_eq!(refused_of(|guest| guest.set(0x160, &[0; 32])), ["migration agent"]);
    assert_eq!(refused_of(|guest| guest.set(0x0a, &[0x03])), ["SMT"]);
    let lax = Policy { allow_migration: true, allow_smt: true, ..amd::policy() };
    assert!(refused_under(&lax, |guest| guest.set(0x0a, &[0x07])).is_empty());
}

#[test]
fn a_root_of_another_product_line_is_refused() {
    // The Milan section of the policy names Genoa's authorities.
    let mut policy = amd::policy();
    policy.products.insert(Product::Milan, Line::of(Product::Genoa).policy());
    assert_eq!(refused_under(&policy, |_| ()), ["chain"]);
    // The certificate is Milan's and the processor is not.
    let genoa = |guest: &mut Guest| {
        guest.set(0x00, &[3]);
        guest.set(0x188, &[0x19, 0x11, 1]);
    };
    assert_eq!(refused_of(genoa), ["product"]);
    // The certificate says Genoa, and Milan's authority issued it.
    let named = |guest: &mut Guest| guest.replace("1.3.6.1.4.1.3704.1.2", &tlv(0x16, b"Genoa-B1"));
    assert_eq!(refused_of(named), ["chain"]);
    // The line is not pinned at all.
    policy.products.remove(&Product::Milan);
    assert_eq!(refused_under(&policy, |_| ()), ["product"]);
}

#[test]
fn a_root_of_the_same_name_with_another_key_is_refused() {
    let mut policy = amd::policy();
    let line = policy.products.get_mut(&Product::Milan).unwrap();
    line.ark = der::pem(&amd::authority("ARK-Milan", "ARK-Milan", 1, ask_key()).sign(ask_key()));
    assert_eq!(refused_under(&policy, |_| ()), ["chain"]);
}

#[test]
fn who_issues_vceks_issues_no_vleks_and_the_root_issues_neither() {
    let mut policy = amd::policy();
    let line = policy.products.get_mut(&Product::Milan).unwrap();
    line.asvk = None;
    let provider = Line::of(Product::Milan).guest_of_provider();
    assert_eq!(refused(&judge(&provider, &policy)), ["chain"]);
    assert_eq!(refused_of(|guest| guest.certificate.issuer = "SEV-VLEK-Milan".to_owned()), ["chain"]);
    let by_root = |guest: &mut Guest| {
        guest.certificate.issuer = "ARK-Milan".to_owned();
        guest.issuer = ark_key();
    };
    assert_eq!(refused_of(by_root), ["chain"]);
}

#[test]
fn a_chain_that_is_not_signed_as_amd_signs_is_refused() {
    let pkcs1: &'static Key = Box::leak(Box::new(Key::rsa_pkcs1(include_bytes!("vectors/ask.pk8"))));
    assert_eq!(refused_of(|guest| guest.issuer = pkcs1), ["chain"]);
}

#[test]
fn an_authority_is_no_processor_and_neither_is_another_kind_of_key() {
    assert_eq!(refused_of(|guest| guest.certificate.extensions.extend(der::authority())), ["certificate"]);
    assert_eq!(refused_of(|guest| guest.certificate.key = ask_key().info()), ["certificate"]);
    assert_eq!(refused_of(|guest| guest.certificate.extensions.clear()), ["certificate"]);
    let both = amd::text(PROVIDER_ID, "CN=cloud.example");
    assert_eq!(refused_of(|guest| guest.certificate.extensions.push(both)), ["certificate"]);
}

#[test]
fn firmware_that_the_key_was_not_certified_for_is_refused() {
    for (at, level) in [(0x180, 3), (0x181, 1), (0x186, 23), (0x187, 0xd8)] {
        let bent = |guest: &mut Guest| {
            guest.set(at, &[level]);
            // The current TCB covers it, whichever it is.
            guest.set(0x39, &[1]);
        };
        assert_eq!(refused_of(bent), ["reported TCB"], "{at:#x}");
    }
    assert_eq!(refused_of(|guest| guest.set(0x182, &[1])), ["reported TCB"], "what is reserved");
    let mut turin = Line::of(Product::Turin).guest();
    turin.replace("1.3.6.1.4.1.3704.1.3.9", &tlv(0x02, &[0]));
    assert_eq!(refused(&judge(&turin, &amd::policy())), ["reported TCB"]);
}

#[test]
fn firmware_that_claims_more_than_it_runs_is_refused() {
    for at in [0x1e0, 0x1f0] {
        assert_eq!(refused_of(|guest| guest.set(at, &tcb(Product::Milan, 0xdd))), ["current TCB"], "{at:#x}");
    }
    assert_eq!(refused_of(|guest| guest.set(0x38, &tcb(Product::Milan, 0xd8))), ["current TCB"]);
}

#[test]
fn firmware_below_the_minimum_is_refused_wherever_it_stands() {
    let mut policy = amd::policy();
    policy.products.get_mut(&Product::Milan).unwrap().minimum_tcb.microcode = 0xda;
    assert_eq!(refused_under(&policy, |_| ()), ["minimum TCB"]);
    assert_eq!(refused_of(|guest| guest.set(0x1e0, &tcb(Product::Milan, 99))), ["committed TCB"]);
    assert_eq!(refused_of(|guest| guest.set(0x1f0, &tcb(Product::Milan, 99))), ["launch TCB"]);
}

#[test]
fn another_chip_is_refused_and_a_masked_one_is_not_called_checked() {
    assert_eq!(refused_of(|guest| guest.set(0x1a0, &[0x23])), ["chip id"]);
    assert_eq!(refused_of(|guest| guest.replace(HARDWARE_ID, &[0x24; 64])), ["chip id"]);
    let mut masked = Line::of(Product::Milan).guest();
    masked.set(0x1a0, &[0; 64]);
    let appraisal = judge(&masked, &amd::policy());
    assert_eq!(verdict(&appraisal, "chip id"), Some(Verdict::Unchecked));
    assert!(appraisal.is_accepted());
    let mut turin = Line::of(Product::Turin).guest();
    turin.set(0x1a0, &CHIP_ID);
    assert_eq!(refused(&judge(&turin, &amd::policy())), ["chip id"], "longer than Turin's");
}

#[test]
fn an_expired_or_early_key_of_a_provider_is_refused() {
    for (from, to) in [("260101000000Z", "260630235959Z"), ("260701000001Z", "270101000000Z")] {
        let mut guest = Line::of(Product::Milan).guest_of_provider();
        (guest.certificate.from, guest.certificate.to) = (from.to_owned(), to.to_owned());
        assert_eq!(refused(&judge(&guest, &amd::policy())), ["validity"]);
    }
}

#[test]
fn an_issuer_that_the_root_revoked_is_refused() {
    let list = |issuer: &str, key: &Key, to: &str, serials: &[u8]| {
        let mut policy = amd::policy();
        let list = der::revocation_list(issuer, key, amd::FROM, to, serials);
        let line = policy.products.get_mut(&Product::Milan).unwrap();
        line.revocation_lists = vec![Blob::new(list).unwrap()];
        refused_under(&policy, |_| ())
    };
    assert_eq!(list("ARK-Milan", ark_key(), amd::TO, &[9, 2]), ["revocation"], "ASK");
    assert!(list("ARK-Milan", ark_key(), amd::TO, &[]).is_empty());
    assert!(list("ARK-Milan", ark_key(), amd::TO, &[3]).is_empty(), "ASVK: this is a VCEK");
    assert_eq!(list("ARK-Milan", ark_key(), "260601000000Z", &[]), ["revocation"], "a stale list");
    assert_eq!(list("ARK-Milan", ark_key(), "", &[]), ["policy"], "a list that never ends");
    assert_eq!(list("ARK-Milan", ask_key(), amd::TO, &[]), ["revocation"], "signed by somebody else");
    assert_eq!(list("ARK-Genoa", ark_key(), amd::TO, &[]), ["revocation"], "of another line");
}

#[test]
fn a_report_that_another_kind_of_key_should_have_signed_is_refused() {
    assert_eq!(refused_of(|guest| guest.set(0x48, &[0b100])), ["signing key"]);
    assert_eq!(refused_of(|guest| guest.set(0x48, &[0b1_1100])), ["signing key"], "none at all");
    let mut provider = Line::of(Product::Milan).guest_of_provider();
    provider.set(0x48, &[0]);
    assert_eq!(refused(&judge(&provider, &amd::policy())), ["signing key"]);
}

#[test]
fn a_report_that_another_key_signed_is_refused() {
    assert_eq!(refused_of(|guest| guest.key = P384::generate()), ["signature"]);
}

#[test]
fn an_unknown_version_or_algorithm_is_refused() {
    for version in [0, 1, 4, 6] {
        assert_eq!(refused_of(|guest| guest.set(0x00, &[version])), ["report version"]);
    }
    assert_eq!(refused_of(|guest| guest.set(0x34, &[0])), ["signature algorithm"]);
}

#[test]
fn a_guest_whose_measurement_or_owner_is_not_in_the_policy_is_refused() {
    assert_eq!(refused_of(|guest| guest.set(0x90, &[0x12])), ["measurement"]);
    let owned = Policy {
        measurements: [].into(),
        id_key_digests: [Hex([1; 48])].into(),
        author_key_digests: [Hex([2; 48])].into(),
        host_data: [Hex([3; 32])].into(),
        family_ids: [Hex([4; 16])].into(),
        image_ids: [Hex([5; 16])].into(),
        minimum_guest_svn: 7,
        ..amd::policy()
    };
    let good = |guest: &mut Guest| {
        guest.set(0x10, &[4; 16]);
        guest.set(0x20, &[5; 16]);
        guest.set(0x48, &[1]);
        guest.set(0xc0, &[3; 32]);
        guest.set(0xe0, &[1; 48]);
        guest.set(0x110, &[2; 48]);
    };
    assert!(refused_under(&owned, good).is_empty());
    let bends: [(&str, usize, u8); 7] = [
        ("family id", 0x10, 9),
        ("image id", 0x20, 9),
        ("author key", 0x48, 0),
        ("host data", 0xc0, 9),
        ("id key", 0xe0, 9),
        ("author key", 0x110, 9),
        ("guest SVN", 0x04, 6),
    ];
    for (name, at, value) in bends {
        let bent = |guest: &mut Guest| {
            good(guest);
            guest.set(at, &[value]);
        };
        assert_eq!(refused_under(&owned, bent), [name]);
    }
}

#[test]
fn a_report_that_is_bound_to_another_transcript_is_refused() {
    let evidence = Line::of(Product::Milan).guest().evidence();
    for at in 0..64 {
        let mut other = *TRANSCRIPT.as_bytes();
        other[at] ^= 1;
        let appraisal = appraise(&evidence, &amd::policy(), &Transcript::from_bytes(other), NOW);
        assert_eq!(refused(&appraisal), ["report data"], "all 64 bytes count");
    }
}

#[test]
fn a_flipped_bit_at_any_byte_is_refused() {
    let policy = amd::policy();
    for guest in [Line::of(Product::Turin).guest(), Line::of(Product::Milan).guest_of_provider()] {
        let whole = guest.evidence();
        let (report, certificate) = (whole.report.as_bytes(), whole.certificate.as_bytes());
        assert!(appraise(&whole, &policy, &TRANSCRIPT, NOW).is_accepted());
        for at in 0..report.len() + certificate.len() {
            let (mut report, mut certificate) = (report.to_vec(), certificate.to_vec());
            let byte = report.iter_mut().chain(&mut certificate).nth(at).unwrap();
            *byte ^= 1 << (at % 8);
            let appraisal = appraise(&amd::evidence(&report, &certificate), &policy, &TRANSCRIPT, NOW);
            assert!(!appraisal.is_accepted(), "byte {at}");
        }
    }
}

#[test]
fn what_is_cut_or_has_something_behind_it_is_refused() {
    let whole = Line::of(Product::Genoa).guest().evidence();
    let (report, certificate) = (whole.report.as_bytes(), whole.certificate.as_bytes());
    let refuses = |report: &[u8], certificate: &[u8]| {
        let evidence = amd::evidence(report, certificate);
        !appraise(&evidence, &amd::policy(), &TRANSCRIPT, NOW).is_accepted()
    };
    assert!((0..report.len()).all(|end| refuses(&report[..end], certificate)));
    assert!((0..certificate.len()).all(|end| refuses(report, &certificate[..end])));
    assert!(refuses(report, &[certificate, &[0]].concat()));
    assert!(refuses(report, &[certificate, certificate].concat()));
    assert!(Blob::<REPORT_SIZE>::new([report, &[0]].concat()).is_err(), "longer is no evidence at all");
}

#[test]
fn a_hundred_megabytes_are_refused_before_they_are_parsed() {
    let base64 = "A".repeat(100_000_000);
    let json = format!(r#"{{"report":"{base64}","certificate":""}}"#);
    assert!(serde_json::from_str::<Evidence>(&json).unwrap_err().to_string().contains("more than 1184"));
    let json = format!(r#"{{"report":"","certificate":"{base64}"}}"#);
    assert!(serde_json::from_str::<Evidence>(&json).unwrap_err().to_string().contains("more than 4096"));
    assert!(Statement::from_text(&json).is_none());
}

#[test]
fn evidence_of_another_kind_is_refused() {
    let evidence = Line::of(Product::Milan).guest().evidence();
    let report = Blob::new(evidence.report.as_bytes().to_vec()).unwrap();
    let policy = nitro::Policy::default();
    let appraisal = nitro::appraise(&nitro::Evidence { document: report }, &policy, &TRANSCRIPT, NOW);
    assert_eq!(refused(&appraisal), ["document"]);
    let mut json = serde_json::to_value(AnyEvidence::SevSnp(Box::new(evidence))).unwrap();
    serde_json::from_value::<AnyEvidence>(json.clone()).unwrap();
    json["kind"] = "nitro".into();
    serde_json::from_value::<AnyEvidence>(json).unwrap_err();
}

#[test]
fn what_a_guest_shows_is_learnt_and_then_accepted() {
    let mut guest = Line::of(Product::Milan).guest();
    guest.set(0xe0, &[1; 48]);
    let mut draft = Policy { measurements: [].into(), ..amd::policy() };
    learn(&guest.evidence(), &mut draft);
    assert_eq!(draft.measurements, [Hex(MEASUREMENT)].into());
    assert_eq!(draft.id_key_digests, [Hex([1; 48])].into());
    assert!(draft.author_key_digests.is_empty() && draft.host_data.is_empty(), "what a guest has not");
    assert!(judge(&guest, &draft).is_accepted());
    let mut fresh = Policy::default();
    learn(&guest.evidence(), &mut fresh);
    assert!(fresh.products.is_empty(), "roots are for the operator to say");
    let mut untouched = Policy::default();
    learn(&amd::evidence(&[0; 9], &[]), &mut untouched);
    assert_eq!(untouched, Policy::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_shown_nothing_panics(
        report in proptest::collection::vec(any::<u8>(), 0..=REPORT_SIZE),
        certificate in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let appraisal = appraise(&amd::evidence(&report, &certificate), &amd::policy(), &TRANSCRIPT, NOW);
        prop_assert!(!appraisal.is_accepted());
    }
}
