use std::{fs, path::PathBuf};

use super::{
    testing::{Platform, Recipe, serial},
    *,
};
use crate::{Bytes, Evidence as AnyEvidence, MAX_STATEMENT, Moment, Statement, Verdict};

const B: Transcript = Transcript::from_bytes([0x5a; 64]);
const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);

/// A TDX 1.5 TD, in a quote of version 5.
fn later() -> Recipe {
    let mut recipe = Recipe { version: 5, ..Recipe::default() };
    let svns = recipe.body[..16].to_vec();
    recipe.body.extend_from_slice(&svns);
    recipe.body.extend_from_slice(&[0; 48]);
    recipe
}

/// The same in the extended form.
fn extended() -> Recipe {
    let mut recipe = later();
    recipe.body.resize(885, 0);
    recipe
}

fn bent(bend: impl FnOnce(&mut Recipe)) -> Platform {
    let mut recipe = Recipe::default();
    bend(&mut recipe);
    Platform::new(recipe)
}

fn evidence(quote: &[u8]) -> Evidence {
    Evidence { quote: Blob::new(quote.to_vec()).unwrap() }
}

/// The first claim that is refused, of a quote of the platform under its own policy.
fn refused(platform: &Platform) -> Option<String> {
    refused_by(platform, &platform.policy())
}

fn refused_by(platform: &Platform, policy: &Policy) -> Option<String> {
    refusal(&platform.quote(B.as_bytes()), policy, NOW)
}

fn refusal(quote: &[u8], policy: &Policy, at: UnixTime) -> Option<String> {
    let appraisal = appraise(&evidence(quote), policy, &B, at);
    assert_eq!(appraisal.is_accepted(), appraisal.refusal().is_none());
    appraisal.refusal().map(|claim| claim.name.clone())
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

#[test]
fn a_quote_of_tdx_1_0_and_one_of_tdx_1_5_are_accepted() {
    for (recipe, later) in [(Recipe::default(), false), (later(), true), (extended(), true)] {
        let platform = Platform::new(recipe);
        let mut policy = platform.policy();
        policy.mrtd.insert("aa".repeat(48));
        policy.rtmrs.insert(2, BTreeSet::from(["03".repeat(48)]));
        policy.mr_config_id.insert("00".repeat(48));
        policy.check().unwrap();
        let appraisal = appraise(&evidence(&platform.quote(B.as_bytes())), &policy, &B, NOW);
        assert_eq!(appraisal.refusal(), None);
        let accepted = |name: &str| {
            appraisal.claims.iter().any(|claim| claim.name == name && claim.verdict == Verdict::Accepted)
        };
        for name in [
            "PCK certificate",
            "TCB info",
            "QE identity",
            "signature",
            "debug",
            "MRTD",
            "RTMR 2",
            "report data",
        ] {
            assert!(accepted(name), "{name}");
        }
        assert_eq!(accepted("service TD"), later);
        assert!(!accepted("RTMR 1"), "the policy does not ask");
    }
}

#[test]
fn a_quote_of_tdx_1_0_in_version_5_is_accepted() {
    assert_eq!(refused(&bent(|recipe| recipe.version = 5)), None);
}

#[test]
fn a_quote_over_another_transcript_is_refused() {
    let platform = Platform::new(Recipe::default());
    assert_eq!(refusal(&platform.quote(&[0; 64]), &platform.policy(), NOW).unwrap(), "report data");
}

#[test]
fn a_debug_td_is_refused() {
    for bit in [1, 0x10, 0x80] {
        assert_eq!(refused(&bent(|recipe| recipe.body[120] |= bit)).unwrap(), "debug", "{bit}");
    }
}

#[test]
fn a_td_that_migrates_has_a_service_td_or_an_unknown_attribute_is_refused() {
    assert_eq!(refused(&bent(|recipe| recipe.body[123] |= 0x20)).unwrap(), "migration");
    assert_eq!(refused(&bent(|recipe| recipe.body[123] = 0)).unwrap(), "TD attributes");
    assert_eq!(refused(&bent(|recipe| recipe.body[124] |= 1)).unwrap(), "TD attributes");
    let mut recipe = later();
    recipe.body[600] = 1;
    assert_eq!(refused(&Platform::new(recipe)).unwrap(), "service TD");
    let mut recipe = extended();
    recipe.body[829] = 1;
    assert_eq!(refused(&Platform::new(recipe)).unwrap(), "service TD now");
    let mut recipe = extended();
    recipe.body[648] = 1;
    assert_eq!(refused(&Platform::new(recipe)).unwrap(), "VM", "the TD runs it, and may say anything of it");
}

#[test]
fn a_policy_may_ask_for_more_of_a_tds_attributes() {
    let platform = Platform::new(Recipe::default());
    let mut policy = platform.policy();
    policy.td_attributes =
        Some(Masked { mask: "8000000000000000".to_owned(), value: "8000000000000000".to_owned() });
    policy.check().unwrap();
    assert_eq!(refused_by(&platform, &policy).unwrap(), "TD attributes of the policy");
    assert_eq!(refused_by(&bent(|recipe| recipe.body[127] |= 0x80), &policy).unwrap(), "PCK certificate");
    let perfmon = bent(|recipe| recipe.body[127] |= 0x80);
    assert_eq!(
        refused_by(&perfmon, &Policy { td_attributes: policy.td_attributes, ..perfmon.policy() }),
        None
    );
}

#[test]
fn a_wrong_mrtd_rtmr_or_config_id_is_refused() {
    let platform = Platform::new(Recipe::default());
    let other = || BTreeSet::from(["ee".repeat(48)]);
    let policy = Policy { mrtd: other(), ..platform.policy() };
    assert_eq!(refused_by(&platform, &policy).unwrap(), "MRTD");
    for index in 0..4 {
        let policy = Policy { rtmrs: BTreeMap::from([(index, other())]), ..platform.policy() };
        assert_eq!(refused_by(&platform, &policy).unwrap(), format!("RTMR {index}"));
    }
    let policy = Policy { mr_config_id: other(), ..platform.policy() };
    assert_eq!(refused_by(&platform, &policy).unwrap(), "MRCONFIGID");
}

#[test]
fn an_unsigned_qe_identity_is_refused() {
    let platform = Platform::new(Recipe::default());
    let mut policy = platform.policy();
    let collateral = &mut policy.collateral[0];
    collateral.qe_identity = replaced(&collateral.qe_identity, "\"isvprodid\":2", "\"isvprodid\":3");
    assert_eq!(refused_by(&platform, &policy).unwrap(), "QE identity");
    let mut policy = platform.policy();
    policy.collateral[0].qe_identity_signature = "00".repeat(64);
    assert_eq!(refused_by(&platform, &policy).unwrap(), "QE identity");
    let mut policy = platform.policy();
    policy.collateral[0].qe_identity_signature = policy.collateral[0].tcb_info_signature.clone();
    assert_eq!(refused_by(&platform, &policy).unwrap(), "QE identity");
}

#[test]
fn a_qe_that_is_not_the_one_of_its_identity_is_refused() {
    // MISCSELECT, the debug attribute, MRSIGNER, ISVPRODID.
    for at in [16, 48, 128, 256] {
        assert_eq!(refused(&bent(|recipe| recipe.qe_report[at] ^= 2)).unwrap(), "QE", "{at}");
    }
    let vouches_for_more = bent(|recipe| recipe.qe_report[383] = 1);
    assert_eq!(refused(&vouches_for_more).unwrap(), "attestation key");
}

#[test]
fn an_identity_of_another_enclave_is_no_collateral() {
    let platform = bent(|recipe| recipe.qe_identity = replaced(&recipe.qe_identity, "TD_QE", "QE"));
    platform.policy().check().unwrap_err();
    assert_eq!(refused(&platform).unwrap(), "collateral");
}

#[test]
fn expired_tcb_info_and_qe_identity_are_refused() {
    let (from, to) = ("2040-01-01T00:00:00Z", "2026-12-31T23:59:59Z");
    let info = bent(|recipe| recipe.tcb_info = replaced(&recipe.tcb_info, from, to));
    assert_eq!(refused(&info).unwrap(), "TCB info validity");
    let identity = bent(|recipe| recipe.qe_identity = replaced(&recipe.qe_identity, from, to));
    assert_eq!(refused(&identity).unwrap(), "QE identity validity");
}

#[test]
fn a_quote_from_before_its_collateral_was_issued_stays_good() {
    // `NOW` is in January 2027: an operator renewed the collateral since the quote was appraised.
    let (from, to) = ("2020-01-01T00:00:00Z", "2027-12-31T00:00:00Z");
    let platform = bent(|recipe| {
        recipe.tcb_info = replaced(&recipe.tcb_info, from, to);
        recipe.qe_identity = replaced(&recipe.qe_identity, from, to);
        recipe.lists_from = 2028;
    });
    assert_eq!(refused(&platform), None);
}

#[test]
fn expired_revocation_lists_and_certificates_are_refused() {
    assert_eq!(refused(&bent(|recipe| recipe.lists_until = 2027)).unwrap(), "revocation lists");
    let platform = Platform::new(Recipe::default());
    let (policy, quote) = (platform.policy(), platform.quote(B.as_bytes()));
    for at in ["2019-12-31T00:00:00Z", "2040-01-02T00:00:00Z"] {
        assert_eq!(refusal(&quote, &policy, at.parse().unwrap()).unwrap(), "PCK certificate");
    }
}

#[test]
fn a_tcb_that_is_out_of_date_revoked_or_below_every_level_is_refused() {
    let platform = bent(|recipe| recipe.tcb_info = replaced(&recipe.tcb_info, "\"svn\":3", "\"svn\":4"));
    assert_eq!(refused(&platform).unwrap(), "platform TCB");
    let mut policy = platform.policy();
    policy.accept_tcb.insert(TcbStatus::OutOfDate);
    assert_eq!(refused_by(&platform, &policy), None, "the operator takes it");
    let revoked = bent(|recipe| recipe.tcb_info = replaced(&recipe.tcb_info, "UpToDate", "Revoked"));
    assert_eq!(refused(&revoked).unwrap(), "platform TCB");
    let policy = Policy { accept_tcb: BTreeSet::from([TcbStatus::Revoked]), ..revoked.policy() };
    policy.check().unwrap_err();
    assert_eq!(refused_by(&revoked, &policy).unwrap(), "platform TCB", "whatever a policy says");
    let below = bent(|recipe| recipe.tcb_info = replaced(&recipe.tcb_info, "\"pcesvn\":11", "\"pcesvn\":12"));
    assert_eq!(refused(&below).unwrap(), "platform TCB");
}

#[test]
fn a_tdx_module_or_qe_that_is_out_of_date_is_refused() {
    assert_eq!(refused(&bent(|recipe| recipe.body[0] = 4)).unwrap(), "TDX module TCB");
    assert_eq!(refused(&bent(|recipe| recipe.body[0] = 3)).unwrap(), "TDX module TCB", "below every level");
    assert_eq!(refused(&bent(|recipe| recipe.qe_report[258] = 1)).unwrap(), "QE TCB");
    assert_eq!(refused(&bent(|recipe| recipe.body[1] = 9)).unwrap(), "TDX module", "an unknown version");
    let mut recipe = later();
    recipe.body[584] = 4;
    assert_eq!(refused(&Platform::new(recipe)).unwrap(), "TDX module TCB now");
}

#[test]
fn the_order_of_tcb_levels_in_the_text_does_not_matter() {
    let swapped = |recipe: &mut Recipe| {
        let text = replaced(&recipe.tcb_info, "UpToDate", "?");
        recipe.tcb_info = replaced(&replaced(&text, "OutOfDate", "UpToDate"), "?", "OutOfDate");
        recipe.tcb_info = replaced(&replaced(&recipe.tcb_info, "\"svn\":3", "?"), "\"svn\":2", "\"svn\":3");
        recipe.tcb_info = replaced(&recipe.tcb_info, "?", "\"svn\":2");
        let text = replaced(&recipe.tcb_info, "\"isvsvn\":5", "?");
        recipe.tcb_info = replaced(&replaced(&text, "\"isvsvn\":4", "\"isvsvn\":5"), "?", "\"isvsvn\":4");
    };
    assert_eq!(refused(&bent(swapped)), None);
}

#[test]
fn a_tdx_module_of_another_signer_or_with_attributes_is_refused() {
    for at in [64, 112] {
        assert_eq!(refused(&bent(|recipe| recipe.body[at] = 1)).unwrap(), "TDX module");
    }
}

#[test]
fn a_revoked_pck_pck_ca_or_tcb_signer_is_refused() {
    assert_eq!(refused(&bent(|recipe| recipe.revoked_pcks = vec![serial::PCK])).unwrap(), "PCK revocation");
    let ca = bent(|recipe| recipe.revoked_issuers = vec![serial::PCK_CA]);
    assert_eq!(refused(&ca).unwrap(), "PCK issuer revocation");
    let signer = bent(|recipe| recipe.revoked_issuers = vec![serial::SIGNER]);
    assert_eq!(refused(&signer).unwrap(), "TCB info");
}

#[test]
fn a_ca_as_pck_certificate_is_refused() {
    assert_eq!(refused(&bent(|recipe| recipe.pck_is_ca = true)).unwrap(), "PCK certificate");
}

#[test]
fn another_root_is_refused_for_quotes_and_for_collateral() {
    let (platform, stranger) = (Platform::new(Recipe::default()), Platform::new(Recipe::default()));
    let policy = Policy { roots: vec![stranger.root()], ..platform.policy() };
    assert_eq!(refused_by(&platform, &policy).unwrap(), "PCK certificate");
    let policy = Policy { roots: vec![], ..platform.policy() };
    assert_eq!(refused_by(&platform, &policy).unwrap(), "PCK certificate", "Intel's");
    let policy = Policy {
        collateral: vec![stranger.collateral()],
        roots: vec![platform.root(), stranger.root()],
        ..platform.policy()
    };
    assert_eq!(refused_by(&platform, &policy).unwrap(), "revocation lists", "of another root, though pinned");
}

#[test]
fn what_another_than_the_tcb_signer_signed_is_refused() {
    let platform = bent(|recipe| recipe.signer = "Intel SGX Something Else".to_owned());
    assert_eq!(refused(&platform).unwrap(), "TCB info");
}

#[test]
fn a_platform_without_collateral_is_refused() {
    let platform = bent(|recipe| recipe.tcb_info = replaced(&recipe.tcb_info, "B0C06F", "B0C06E"));
    assert_eq!(refused(&platform).unwrap(), "platform");
    let none = Policy { collateral: vec![], ..platform.policy() };
    assert_eq!(refused_by(&platform, &none).unwrap(), "platform");
}

#[test]
fn one_bit_flipped_at_any_byte_of_a_quote_is_refused() {
    for recipe in [Recipe::default(), extended()] {
        let platform = Platform::new(recipe);
        let (quote, policy) = (platform.quote(B.as_bytes()), platform.policy());
        assert_eq!(refusal(&quote, &policy, NOW), None);
        for at in 0..quote.len() {
            let mut bent = quote.clone();
            bent[at] ^= 1 << (at % 8);
            assert!(refusal(&bent, &policy, NOW).is_some(), "byte {at}");
        }
    }
}

#[test]
fn one_bit_flipped_at_any_byte_of_collateral_is_refused() {
    let platform = Platform::new(Recipe::default());
    let (quote, policy) = (platform.quote(B.as_bytes()), platform.policy());
    let text = serde_json::to_vec(&policy.collateral[0]).unwrap();
    for at in 0..text.len() {
        let mut bent = text.clone();
        bent[at] ^= 1 << (at % 8);
        let Ok(collateral) = serde_json::from_slice(&bent) else { continue };
        let policy = Policy { collateral: vec![collateral], ..policy.clone() };
        assert!(refusal(&quote, &policy, NOW).is_some(), "byte {at}");
    }
}

#[test]
fn a_quote_that_is_cut_anywhere_or_has_something_behind_it_is_refused() {
    let platform = Platform::new(extended());
    let (quote, policy) = (platform.quote(B.as_bytes()), platform.policy());
    for length in 0..quote.len() {
        assert_eq!(refusal(&quote[..length], &policy, NOW).unwrap(), "quote", "{length} bytes");
    }
    assert_eq!(refusal(&[quote.as_slice(), b"\0"].concat(), &policy, NOW).unwrap(), "quote");
}

#[test]
fn a_hundred_megabytes_are_refused_before_they_are_decoded() {
    let text = format!(r#"{{"quote":"{}"}}"#, "A".repeat(100_000_000));
    serde_json::from_str::<Evidence>(&text).unwrap_err();
    let platform = Platform::new(Recipe::default());
    let mut policy = platform.policy();
    policy.collateral[0].tcb_info.push_str(&" ".repeat(100_000_000));
    policy.check().unwrap_err();
    assert_eq!(refused_by(&platform, &policy).unwrap(), "platform");
}

#[test]
fn nesting_without_end_is_refused() {
    let mut policy = Platform::new(Recipe::default()).policy();
    policy.collateral[0].tcb_info = "[".repeat(400_000);
    policy.check().unwrap_err();
}

#[test]
fn evidence_of_another_kind_is_no_quote() {
    let policy = Platform::new(Recipe::default()).policy();
    for other in ["test-report.bin", "test-vcek.der", "nitro_attestation.b64"] {
        assert_eq!(refusal(&vector(other), &policy, NOW).unwrap(), "quote", "{other}");
    }
    serde_json::from_str::<Evidence>(r#"{"report":"AA==","certificate":"AA=="}"#).unwrap_err();
    let of_sgx = |mut quote: Vec<u8>| {
        quote[4] = 0;
        quote
    };
    let platform = Platform::new(Recipe::default());
    assert_eq!(refusal(&of_sgx(platform.quote(B.as_bytes())), &policy, NOW).unwrap(), "quote");
}

#[test]
fn a_policy_that_makes_no_sense_is_not_taken() {
    Policy::default().check().unwrap_err();
    let good = Platform::new(Recipe::default()).policy();
    good.check().unwrap();
    let wrong = [
        Policy { roots: vec!["?".to_owned()], ..good.clone() },
        Policy { collateral: [good.collateral.clone(), good.collateral.clone()].concat(), ..good.clone() },
        Policy { accept_tcb: BTreeSet::new(), ..good.clone() },
        Policy { mrtd: BTreeSet::new(), ..good.clone() },
        Policy { mrtd: BTreeSet::from(["AA".repeat(48)]), ..good.clone() },
        Policy { mrtd: BTreeSet::from(["aa".repeat(47)]), ..good.clone() },
        Policy { rtmrs: BTreeMap::from([(4, BTreeSet::new())]), ..good.clone() },
        Policy {
            td_attributes: Some(Masked { mask: "1".to_owned(), value: "1".to_owned() }),
            ..good.clone()
        },
    ];
    for policy in wrong {
        policy.check().unwrap_err();
    }
    let text = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), good);
}

#[test]
fn of_several_platforms_each_has_its_own_collateral() {
    let platform = Platform::new(Recipe::default());
    let other = bent(|recipe| recipe.tcb_info = replaced(&recipe.tcb_info, "B0C06F", "B0C06E"));
    let mut policy = platform.policy();
    policy.collateral.insert(0, other.collateral());
    policy.check().unwrap();
    assert_eq!(refused_by(&platform, &policy), None);
    policy.collateral.pop();
    assert_eq!(refused_by(&platform, &policy).unwrap(), "platform");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_of_quotes_panic(
        bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..64),
        at in 0usize..5000,
        version in 3u16..7,
    ) {
        static QUOTE: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| Platform::new(extended()).quote(B.as_bytes()));
        let _ = Evidence::from_device(&bytes);
        let _ = Quote::parse(&bytes);
        let mut bent = QUOTE.clone();
        bent[..2].copy_from_slice(&version.to_le_bytes());
        for (to, from) in bent.iter_mut().skip(at).zip(&bytes) {
            *to = *from;
        }
        let _ = Evidence::from_device(&bent);
        let _ = Quote::parse(&bent);
    }
}

#[test]
fn what_is_learnt_from_a_node_admits_it() {
    let platform = Platform::new(Recipe::default());
    let mut policy = platform.policy();
    learn(&evidence(&platform.quote(B.as_bytes())), &mut policy);
    assert_eq!(policy.mrtd, BTreeSet::from(["aa".repeat(48)]));
    assert_eq!(policy.rtmrs[&3], BTreeSet::from(["04".repeat(48)]));
    policy.check().unwrap();
    assert_eq!(refused_by(&platform, &policy), None);
    learn(&evidence(b"no quote"), &mut policy);
}

#[test]
fn zeros_behind_a_quote_do_not_travel() {
    for recipe in [Recipe::default(), later()] {
        let quote = Platform::new(recipe).quote(B.as_bytes());
        let padded = [quote.as_slice(), &[0; 70]].concat();
        assert_eq!(Evidence::from_device(&padded).unwrap(), evidence(&quote));
        assert_eq!(Evidence::from_device(&quote).unwrap(), evidence(&quote));
        Evidence::from_device(&[padded.as_slice(), b"x"].concat()).unwrap_err();
        Evidence::from_device(&quote[..quote.len() - 1]).unwrap_err();
    }
    Evidence::from_device(b"").unwrap_err();
    Evidence::from_device(&[5, 0, 2, 0].repeat(30)).unwrap_err();
}

#[test]
fn the_largest_quote_fits_into_a_statement() {
    let statement = Statement {
        moment: Moment {
            log_size: u64::MAX,
            log_head: Bytes([0; 32]),
            salt: Bytes([0; 32]),
            exporter: Bytes([0; 32]),
            policy_version: u64::MAX,
            runtime_digest: Bytes([0; 32]),
        },
        wireguard_key: carrick_types::WireGuardSecret::from_bytes([1; 32]).public(),
        evidence: AnyEvidence::Tdx(Box::new(evidence(&[0; MAX_QUOTE]))),
        appraised_at: NOW,
    };
    assert!(statement.to_text().len() < MAX_STATEMENT);
}

#[test]
fn a_real_quote_is_intels_and_only_not_about_us() {
    let policy = Policy {
        collateral: vec![serde_json::from_slice(&vector("tdx_quote_collateral.json")).unwrap()],
        ..Policy::default()
    };
    policy.check().unwrap_err();
    let at = "2025-06-20T00:00:00Z".parse().unwrap();
    let padded = vector("tdx_quote");
    assert_eq!(refusal(&padded, &policy, at).unwrap(), "quote", "with zeros behind it");
    let real = Evidence::from_device(&padded).unwrap();
    let appraisal = appraise(&real, &policy, &B, at);
    let refused: Vec<_> = appraisal.claims.iter().filter(|claim| claim.verdict == Verdict::Refused).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].name, "report data");
    assert!(appraisal.claims.len() > 20, "{appraisal:?}");

    let mut learnt = policy.clone();
    learn(&real, &mut learnt);
    learnt.check().unwrap();
    let at_last = appraise(&real, &learnt, &B, at);
    assert_eq!(at_last.refusal().unwrap().name, "report data");
    let expired = "2025-07-20T00:00:00Z".parse().unwrap();
    assert_ne!(appraise(&real, &policy, &B, expired).refusal().unwrap().name, "report data");
}

#[test]
fn one_bit_flipped_at_any_byte_of_a_real_quote_is_refused_before_its_report_data() {
    let policy = Policy {
        collateral: vec![serde_json::from_slice(&vector("tdx_quote_collateral.json")).unwrap()],
        ..Policy::default()
    };
    let at = "2025-06-20T00:00:00Z".parse().unwrap();
    let real = Evidence::from_device(&vector("tdx_quote")).unwrap();
    for byte in 0..real.quote.as_bytes().len() {
        let mut bent = real.quote.as_bytes().to_vec();
        bent[byte] ^= 1 << (byte % 8);
        assert_ne!(refusal(&bent, &policy, at).unwrap(), "report data", "byte {byte}");
    }
}

/// Real evidence, which is not part of the repository.
fn vector(name: &str) -> Vec<u8> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors"));
    let folder = std::env::var_os("CARRICK_VECTORS").map_or_else(beside, PathBuf::from);
    let path = folder.join(name);
    fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}: set CARRICK_VECTORS to the folder of real evidence", path.display())
    })
}
