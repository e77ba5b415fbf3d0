//! What nodes show of themselves.

use std::str;

use carrick_attest::{
    Bytes, Evidence, Moment, Statement, Subject,
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
    let transcript = moment().transcript(&subject, carrick_attest::Kind::Identity);
    let evidence = Evidence::Identity { signature: identity.sign(transcript.as_bytes()) };
    vec![Statement { moment: moment(), wireguard_key, evidence, appraised_at: NOW }.to_text().into_bytes()]
}

pub(super) fn run_statement(input: &[u8]) {
    if let Some(statement) = str::from_utf8(input).ok().and_then(Statement::from_text) {
        assert_eq!(Statement::from_text(&statement.to_text()), Some(statement));
    }
}

pub(super) fn certificates() -> Vec<Vec<u8>> {
    // A key and its own signature are not needed to lead a parser everywhere.
    vec![vec![0x30, 0x03, 0x02, 0x01, 0x01]]
}

pub(super) fn run_certificate(input: &[u8]) {
    if let Ok(certificate) = Certificate::parse(input) {
        let _ = certificate.path_to(&[], std::slice::from_ref(&certificate), NOW);
        let _ = certificate.check_issued_by(&certificate);
    }
    let _ = str::from_utf8(input).map(Certificate::parse_pem);
}

pub(super) fn lists() -> Vec<Vec<u8>> {
    vec![vec![0x30, 0x03, 0x02, 0x01, 0x01]]
}

pub(super) fn run_list(input: &[u8]) {
    let _ = RevocationList::parse(input);
}
