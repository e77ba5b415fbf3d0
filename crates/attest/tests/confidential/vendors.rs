//! Real evidence, of AMD's and AWS's machines, under their real roots.

use std::{env, fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use carrick_attest::{
    Blob, Hex, Transcript, Verdict,
    nitro::{self, CoseSign1, Document},
    sev_snp::{self, Product, ProductPolicy, Report, Tcb},
};
use carrick_types::UnixTime;
use sha2::{Digest as _, Sha256};

use crate::{TRANSCRIPT, amd, assert_reasons, aws, der, refused, verdict};

/// SHA-256 of AWS's root, as AWS publishes it.
const AWS_ROOT: &str = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b";

/// A file of the vendors' evidence.
fn vector(name: &str) -> Vec<u8> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = env::var_os("CARRICK_VECTORS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let path = folder.join(name);
    fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}: set CARRICK_VECTORS to the folder that holds the vendors' evidence",
            path.display()
        )
    })
}

fn at(time: &str) -> UnixTime {
    time.parse().unwrap()
}

/// A product line with AMD's certificates, which stand in the file as ASK, ARK, ASVK.
fn line(file: &str, minimum_tcb: Tcb) -> ProductPolicy {
    let text = String::from_utf8(vector(file)).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let mut certificates = text.split_inclusive(end).map(str::to_owned);
    let (ask, ark, asvk) = (certificates.next(), certificates.next().unwrap(), certificates.next());
    ProductPolicy { ark, ask, asvk, revocation_lists: vec![], minimum_tcb }
}

/// A policy for the guest whose report this is.
fn policy(report: &[u8]) -> sev_snp::Policy {
    let least = Tcb { fmc: 0, bootloader: 3, tee: 0, snp: 8, microcode: 115 };
    let measurement = Hex(Report::parse(report).unwrap().measurement);
    let policy = sev_snp::Policy {
        products: [(Product::Milan, line("milan.pem", least)), (Product::Genoa, line("genoa.pem", least))]
            .into(),
        measurements: [measurement].into(),
        allow_smt: true,
        ..sev_snp::Policy::default()
    };
    policy.check().unwrap();
    policy
}

/// What such a report is bound to: not a transcript of ours.
fn bound_to(report: &[u8]) -> Transcript {
    Transcript::from_bytes(Report::parse(report).unwrap().report_data)
}

#[test]
fn all_that_a_real_report_lacks_is_our_transcript() {
    let (report, vcek) = (vector("test-report.bin"), vector("test-vcek.der"));
    let (evidence, policy) = (amd::evidence(&report, &vcek), policy(&report));
    let appraisal = sev_snp::appraise(&evidence, &policy, &TRANSCRIPT, at("2024-01-01T00:00:00Z"));
    assert_reasons(&appraisal);
    assert_eq!(refused(&appraisal), ["report data"]);
    for name in
        ["product", "chain", "signature", "chip id", "reported TCB", "minimum TCB", "measurement", "debug"]
    {
        assert_eq!(verdict(&appraisal, name), Some(Verdict::Accepted), "{name}");
    }
    let bound = sev_snp::appraise(&evidence, &policy, &bound_to(&report), at("2024-01-01T00:00:00Z"));
    assert!(bound.is_accepted());
}

#[test]
fn a_real_report_under_a_vlek_is_good_until_the_vlek_expires() {
    let (report, vlek) = (vector("test-vlek-report.bin"), vector("test-vlek.der"));
    let (evidence, strict) = (amd::evidence(&report, &vlek), policy(&report));
    let policy = sev_snp::Policy {
        max_vmpl: 1,
        providers: ["CN=cc-us-east-2.amazonaws.com".to_owned()].into(),
        ..strict.clone()
    };
    let time = at("2025-12-10T22:14:21Z");
    let appraisal = sev_snp::appraise(&evidence, &policy, &TRANSCRIPT, time);
    assert_eq!(refused(&appraisal), ["report data"]);
    assert_eq!(verdict(&appraisal, "provider"), Some(Verdict::Accepted));
    assert_eq!(verdict(&appraisal, "chip id"), Some(Verdict::Unchecked), "the provider masks it");
    assert!(sev_snp::appraise(&evidence, &policy, &bound_to(&report), time).is_accepted());
    let later = sev_snp::appraise(&evidence, &policy, &bound_to(&report), at("2025-12-10T22:14:22Z"));
    assert_eq!(refused(&later), ["validity"]);
    // Another level in the guest than the most privileged asked for it.
    assert_eq!(refused(&sev_snp::appraise(&evidence, &strict, &bound_to(&report), time)), ["VMPL"]);
}

#[test]
fn a_real_report_under_the_root_of_another_product_line_is_refused() {
    let (report, vcek) = (vector("test-report.bin"), vector("test-vcek.der"));
    let (evidence, mut policy) = (amd::evidence(&report, &vcek), policy(&report));
    let genoa = policy.products.remove(&Product::Genoa).unwrap();
    policy.products.insert(Product::Milan, genoa);
    assert!(policy.check().unwrap_err().contains("of another product line"));
    let appraisal = sev_snp::appraise(&evidence, &policy, &bound_to(&report), at("2024-01-01T00:00:00Z"));
    assert_eq!(refused(&appraisal), ["chain"]);
}

#[test]
fn a_flipped_bit_at_any_byte_of_a_real_report_or_certificate_is_refused() {
    for (report, leaf) in [("test-report.bin", "test-vcek.der"), ("test-vlek-report.bin", "test-vlek.der")] {
        let (report, leaf) = (vector(report), vector(leaf));
        let (policy, transcript) = (sev_snp::Policy { max_vmpl: 1, ..policy(&report) }, bound_to(&report));
        let time = at("2025-06-01T00:00:00Z");
        assert!(sev_snp::appraise(&amd::evidence(&report, &leaf), &policy, &transcript, time).is_accepted());
        for byte in 0..report.len() + leaf.len() {
            let (mut report, mut leaf) = (report.clone(), leaf.clone());
            *report.iter_mut().chain(&mut leaf).nth(byte).unwrap() ^= 1 << (byte % 8);
            let appraisal = sev_snp::appraise(&amd::evidence(&report, &leaf), &policy, &transcript, time);
            assert!(!appraisal.is_accepted(), "byte {byte}");
        }
    }
}

/// A real document, and the policy for its enclave. Its bundle starts with AWS's root, which is known by its digest.
fn document() -> (Vec<u8>, nitro::Policy) {
    let text = String::from_utf8(vector("nitro_attestation.b64")).unwrap();
    let document = STANDARD.decode(text.trim()).unwrap();
    let root = {
        let cose = CoseSign1::parse(&document).unwrap();
        Document::parse(cose.payload).unwrap().cabundle[0].to_vec()
    };
    assert_eq!(Hex::<32>(Sha256::digest(&root).into()).to_string(), AWS_ROOT);
    let mut policy = nitro::Policy { roots: der::pem(&root), ..nitro::Policy::default() };
    nitro::learn(&aws::evidence(&document), &mut policy);
    policy.check().unwrap();
    (document, policy)
}

#[test]
fn all_that_a_real_document_lacks_is_our_transcript() {
    let (document, policy) = document();
    let evidence = nitro::Evidence { document: Blob::new(document).unwrap() };
    let appraisal = nitro::appraise(&evidence, &policy, &TRANSCRIPT, at("2024-09-07T14:37:40Z"));
    assert_reasons(&appraisal);
    assert_eq!(refused(&appraisal), ["user data", "nonce"]);
    for name in [
        "algorithm",
        "root",
        "chain",
        "validity",
        "signature",
        "timestamp",
        "debug",
        "pcr 0",
        "pcr 1",
        "pcr 2",
    ] {
        assert_eq!(verdict(&appraisal, name), Some(Verdict::Accepted), "{name}");
    }
    let later = nitro::appraise(&evidence, &policy, &TRANSCRIPT, at("2024-09-07T17:37:40Z"));
    assert_eq!(refused(&later), ["validity"], "three hours later");
}

#[test]
fn a_flipped_bit_in_a_real_document_is_refused() {
    let (document, policy) = document();
    // Every byte of the envelope, and every eleventh of what the signature covers.
    let envelope = (0..12).chain(document.len() - 98..document.len());
    for byte in envelope.chain((12..document.len()).step_by(11)) {
        let mut bent = document.clone();
        bent[byte] ^= 1 << (byte % 8);
        let appraisal =
            nitro::appraise(&aws::evidence(&bent), &policy, &TRANSCRIPT, at("2024-09-07T14:37:40Z"));
        let refused = refused(&appraisal);
        assert!(
            refused.iter().any(|name| !matches!(*name, "user data" | "nonce")),
            "byte {byte}: {refused:?}"
        );
    }
}
