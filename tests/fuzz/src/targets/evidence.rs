//! What nodes show of themselves.

use std::{str, sync::LazyLock};

use carrick_attest::{
    Blob, Bytes, Evidence, Kind, Moment, Statement, Subject, identity, kubernetes,
    testing::{Sample, samples},
    x509::{Certificate, RevocationList},
};
use carrick_types::{IdentitySecret, MeshId, UnixTime, WireGuardSecret};

const NOW: UnixTime = UnixTime::from_millis(1_770_000_000_000);

fn moment() -> Moment {
    Moment {
        log_size: 1,
        log_head: Bytes([1; 32]),
        salt: Bytes([2; 32]),
        exporter: Bytes([3; 32]),
        policy_version: 1,
        runtime_digest: Bytes([4; 32]),
    }
}

pub(super) fn statements() -> Vec<Vec<u8>> {
    let identity = IdentitySecret::from_bytes([5; 32]);
    let wireguard_key = WireGuardSecret::from_bytes([6; 32]).public();
    let subject = Subject {
        mesh: MeshId::from_bytes([1; 16]),
        cluster: "east".parse().expect("a name"),
        identity_key: identity.public(),
        wireguard_key,
    };
    let transcript = moment().transcript(&subject, Kind::Identity);
    let (name, prefixes) = ("a".parse().expect("a name"), vec!["10.1.0.0/16".parse().expect("a prefix")]);
    let evidence = Evidence::Identity(identity::Evidence::sign(&identity, name, prefixes, &transcript));
    vec![Statement { moment: moment(), wireguard_key, evidence, appraised_at: NOW }.to_text().into_bytes()]
}

pub(super) fn run_statement(input: &[u8]) {
    if let Some(statement) = str::from_utf8(input).ok().and_then(Statement::from_text) {
        assert_eq!(Statement::from_text(&statement.to_text()), Some(statement));
    }
}

/// The leaves of SEV-SNP and of an endorsement key.
pub(super) fn certificates() -> Vec<Vec<u8>> {
    let of_tpm = of(Kind::Tpm).filter_map(|sample| {
        let Evidence::Tpm(evidence) = &sample.evidence else { return None };
        Some(evidence.endorsement_certificate.as_ref()?.as_bytes().to_vec())
    });
    let of_sev_snp = of(Kind::SevSnp).filter_map(|sample| {
        let Evidence::SevSnp(evidence) = &sample.evidence else { return None };
        Some(evidence.certificate.as_bytes().to_vec())
    });
    of_tpm.chain(of_sev_snp).collect()
}

pub(super) fn run_certificate(input: &[u8]) {
    if let Ok(certificate) = Certificate::parse(input) {
        let _ = certificate.path_to(&[], std::slice::from_ref(&certificate), NOW);
        let _ = certificate.check_issued_by(&certificate);
    }
    let _ = str::from_utf8(input).map(Certificate::parse_pem);
}

/// The lists of a TDX platform.
pub(super) fn lists() -> Vec<Vec<u8>> {
    let collateral = of(Kind::Tdx).filter_map(|sample| sample.policy.tdx.as_ref()?.collateral.first());
    let hex = |text: &String| {
        let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).ok());
        digits.filter_map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
    };
    collateral.flat_map(|collateral| [hex(&collateral.root_ca_crl), hex(&collateral.pck_crl)]).collect()
}

pub(super) fn run_list(input: &[u8]) {
    let _ = RevocationList::parse(input);
}

/// Good evidence, which leads everywhere.
static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(samples);

fn of(kind: Kind) -> impl Iterator<Item = &'static Sample> {
    SAMPLES.iter().filter(move |sample| sample.evidence.kind() == kind)
}

/// Nothing but the samples themselves is good: whatever else is accepted was forged.
fn judge(evidence: &Evidence) {
    for sample in of(evidence.kind()) {
        let accepted = sample.appraise_instead(evidence).is_accepted();
        assert!(!accepted || *evidence == sample.evidence, "evidence that nobody made is accepted");
    }
}

pub(super) fn kubernetes() -> Vec<Vec<u8>> {
    let token = |sample: &Sample| {
        let Evidence::Kubernetes(evidence) = &sample.evidence else { return None };
        serde_json::to_value(evidence).ok()?["token"].as_str().map(str::to_owned)
    };
    of(Kind::Kubernetes).filter_map(token).map(String::into_bytes).collect()
}

pub(super) fn run_kubernetes(input: &[u8]) {
    let token = str::from_utf8(input).ok().and_then(|text| text.to_owned().try_into().ok());
    if let Some(token) = token {
        judge(&Evidence::Kubernetes(kubernetes::Evidence { token }));
    }
}

/// As JSON, since it has many parts.
pub(super) fn tpm() -> Vec<Vec<u8>> {
    of(Kind::Tpm).filter_map(|sample| serde_json::to_vec(&sample.evidence).ok()).collect()
}

pub(super) fn run_tpm(input: &[u8]) {
    if let Ok(evidence @ Evidence::Tpm(_)) = serde_json::from_slice(input) {
        // What activates a key is for the coordinator to judge, and need not be as it was.
        let _ = of(Kind::Tpm).map(|sample| sample.appraise_instead(&evidence)).collect::<Vec<_>>();
    }
}

pub(super) fn sev_snp() -> Vec<Vec<u8>> {
    let report = |sample: &Sample| {
        let Evidence::SevSnp(evidence) = &sample.evidence else { return None };
        Some(evidence.report.as_bytes().to_vec())
    };
    of(Kind::SevSnp).filter_map(report).collect()
}

pub(super) fn run_sev_snp(input: &[u8]) {
    for sample in of(Kind::SevSnp) {
        if let (Evidence::SevSnp(good), Ok(report)) = (&sample.evidence, Blob::new(input.to_vec())) {
            judge(&Evidence::SevSnp(Box::new(carrick_attest::sev_snp::Evidence {
                report,
                ..(**good).clone()
            })));
        }
    }
}

pub(super) fn tdx() -> Vec<Vec<u8>> {
    let quote = |sample: &Sample| {
        let Evidence::Tdx(evidence) = &sample.evidence else { return None };
        Some(evidence.quote.as_bytes().to_vec())
    };
    of(Kind::Tdx).filter_map(quote).collect()
}

pub(super) fn run_tdx(input: &[u8]) {
    if let Ok(quote) = Blob::new(input.to_vec()) {
        judge(&Evidence::Tdx(Box::new(carrick_attest::tdx::Evidence { quote })));
    }
    let _ = carrick_attest::tdx::Evidence::from_device(input);
}

pub(super) fn nitro() -> Vec<Vec<u8>> {
    let document = |sample: &Sample| {
        let Evidence::Nitro(evidence) = &sample.evidence else { return None };
        Some(evidence.document.as_bytes().to_vec())
    };
    of(Kind::Nitro).filter_map(document).collect()
}

pub(super) fn run_nitro(input: &[u8]) {
    if let Ok(document) = Blob::new(input.to_vec()) {
        judge(&Evidence::Nitro(Box::new(carrick_attest::nitro::Evidence { document })));
    }
}
