//! Against swtpm: what a TPM makes of the commands, and what the verifier makes of its answers.

use std::{fs, path::Path, time::Instant};

use carrick_attest::{
    Appraisal, Blob, Transcript,
    tpm::{self, Activation, Evidence, Policy},
};
use carrick_lab::{Certified, Swtpm};
use carrick_types::UnixTime;

use super::{
    device::selection_of,
    templates::{ALG_SHA256, Template},
    *,
};

const TRANSCRIPT: Transcript = Transcript::from_bytes([9; 64]);

/// Where the vectors of `carrick-attest` are made anew: a directory.
const RECORD: &str = "CARRICK_RECORD_TPM";

fn now() -> UnixTime {
    UnixTime::from(std::time::SystemTime::now())
}

fn tpm(swtpm: &Swtpm, attestation: Option<KeyAlgorithm>) -> Tpm {
    Tpm { source: TpmSource { tcti: swtpm.tcti().parse().unwrap(), attestation }, known: None }
}

/// A whole exchange, as in a session: keys, credential, secret, quote.
fn exchange(tpm: &mut Tpm) -> (Activation, Credential, Evidence) {
    let (activation, credential) = Activation::new(tpm.keys().unwrap(), &[3; 96]).unwrap();
    let secret = tpm.activate(&credential).unwrap();
    let evidence = tpm.attest(&secret, &TRANSCRIPT).unwrap();
    (activation, credential, evidence)
}

fn evidence(tpm: &mut Tpm) -> Evidence {
    exchange(tpm).2
}

fn policy(swtpm: &Swtpm) -> Policy {
    Policy { endorsement_roots: swtpm.roots().unwrap(), ..Policy::default() }
}

fn appraise(evidence: &Evidence, policy: &Policy) -> Appraisal {
    policy.check().unwrap();
    tpm::appraise(evidence, policy, &TRANSCRIPT, now())
}

/// What is refused.
fn refused(appraisal: &Appraisal) -> Option<&str> {
    appraisal.refusal().map(|claim| claim.name.as_str())
}

fn made(certified: Certified) -> (tempfile::TempDir, Swtpm) {
    let directory = tempfile::tempdir().unwrap();
    let swtpm = Swtpm::make(directory.path(), certified).unwrap();
    (directory, swtpm)
}

/// The handles that are left in a TPM; as its attester does it, they would be gone.
fn left_behind(swtpm: &Swtpm) -> Vec<u32> {
    let mut device = Device::open_as_it_is(&swtpm.tcti().parse().unwrap()).unwrap();
    let mut handles = device.handles(0x8000_0000).unwrap();
    handles.extend(device.handles(0x0200_0000).unwrap());
    handles
}

#[test]
fn every_pair_of_keys_is_activated_and_its_quote_is_accepted() {
    for (certified, kind) in [(Certified::Rsa, "rsa"), (Certified::Ecc, "ecc")] {
        let (_directory, swtpm) = made(certified);
        for (algorithm, name) in [(KeyAlgorithm::Ecc, "ecc"), (KeyAlgorithm::Rsa, "rsa")] {
            let mut tpm = tpm(&swtpm, Some(algorithm));
            let since = Instant::now();
            let (activation, credential, evidence) = exchange(&mut tpm);
            let took = since.elapsed();
            let mut policy = policy(&swtpm);
            tpm::learn(&evidence, &mut policy);
            assert_eq!(policy.pcrs.len(), 24);
            let appraisal = appraise(&evidence, &policy);
            assert_eq!(refused(&appraisal), None, "{kind} {name}: {appraisal:?}");
            assert!(appraisal.is_accepted());
            assert!(serde_json::to_string(&evidence).unwrap().len() < 8192);
            println!("EK {kind}, AK {name}: keys, credential and quote took {took:?}");
            record(&format!("{kind}-{name}"), &evidence, &credential, &swtpm);
            activation.confirm(&evidence, &TRANSCRIPT).unwrap();
            assert_eq!(left_behind(&swtpm), [0_u32; 0], "nothing stays loaded");
        }
    }
}

/// Writes what was just shown, for tests that have no TPM.
fn record(name: &str, evidence: &Evidence, credential: &Credential, swtpm: &Swtpm) {
    let Some(directory) = std::env::var_os(RECORD) else { return };
    let vector = serde_json::json!({
        "evidence": evidence,
        "credential": credential,
        "roots": swtpm.roots().unwrap(),
        "at_millis": now().as_millis(),
    });
    let text = serde_json::to_string_pretty(&vector).unwrap();
    fs::write(Path::new(&directory).join(format!("{name}.json")), text + "\n").unwrap();
}

#[test]
fn the_same_attestation_key_comes_back_after_a_restart_of_agent_and_machine() {
    let (_directory, mut swtpm) = made(Certified::Rsa);
    let before = evidence(&mut tpm(&swtpm, None));
    let again = evidence(&mut tpm(&swtpm, None));
    assert_eq!(before.attestation_key, again.attestation_key);
    assert_eq!(refused(&tpm::follows(&before, &again)), None);
    swtpm.reset().unwrap();
    let after = evidence(&mut tpm(&swtpm, None));
    assert_eq!(before.attestation_key, after.attestation_key);
    assert_eq!(refused(&tpm::follows(&again, &after)), None);
    assert_eq!(
        refused(&tpm::follows(&after, &again)),
        Some("reset count goes on"),
        "not the other way round"
    );
}

#[test]
fn a_tpm_that_was_set_back_to_a_copy_is_refused() {
    let (_directory, mut swtpm) = made(Certified::Rsa);
    swtpm.stop().unwrap();
    let copy = swtpm.save().unwrap();
    swtpm.start().unwrap();
    swtpm.reset().unwrap();
    let before = evidence(&mut tpm(&swtpm, None));
    swtpm.stop().unwrap();
    swtpm.restore(&copy).unwrap();
    swtpm.start().unwrap();
    let after = evidence(&mut tpm(&swtpm, None));
    assert_eq!(refused(&appraise(&after, &policy(&swtpm))), None, "good in itself");
    assert_eq!(refused(&tpm::follows(&before, &after)), Some("reset count goes on"));
}

#[test]
fn another_tpm_is_refused_as_the_same_node() {
    let ((_here, first), (_there, second)) = (made(Certified::Rsa), made(Certified::Rsa));
    let (before, after) = (evidence(&mut tpm(&first, None)), evidence(&mut tpm(&second, None)));
    assert_eq!(refused(&tpm::follows(&before, &after)), Some("same TPM"));
}

#[test]
fn a_vendor_that_nobody_pinned_is_refused() {
    let ((_here, first), (_there, second)) = (made(Certified::Rsa), made(Certified::Rsa));
    let evidence = evidence(&mut tpm(&first, None));
    assert_eq!(
        refused(&appraise(&evidence, &policy(&second))),
        Some("endorsement"),
        "the same names, other keys"
    );
}

#[test]
fn an_endorsement_key_without_a_certificate_is_good_once_it_is_enrolled() {
    let (_directory, swtpm) = made(Certified::Nothing);
    let evidence = evidence(&mut tpm(&swtpm, None));
    assert_eq!(evidence.endorsement_certificate, None);
    assert_eq!(refused(&appraise(&evidence, &policy(&swtpm))), Some("endorsement certificate"));
    let name = tpm::Public::parse(evidence.endorsement_key.as_bytes()).unwrap().name().to_hex();
    let enrolled = Policy { endorsement_keys: [name].into(), ..Policy::default() };
    assert_eq!(refused(&appraise(&evidence, &enrolled)), None);
}

#[test]
fn a_measurement_that_the_policy_does_not_name_is_refused() {
    let (_directory, swtpm) = made(Certified::Ecc);
    let mut policy = policy(&swtpm);
    tpm::learn(&evidence(&mut tpm(&swtpm, None)), &mut policy);
    swtpm.extend(7).unwrap();
    assert_eq!(refused(&appraise(&evidence(&mut tpm(&swtpm, None)), &policy)), Some("pcr 7"));
}

/// Evidence with a quote of other registers, which the TPM made all the same.
fn quoting(swtpm: &Swtpm, selection: &[u8], values: usize) -> Evidence {
    let mut tpm = tpm(swtpm, None);
    let evidence = evidence(&mut tpm);
    let mut device = tpm.open().unwrap();
    let quoted = device.with_key(Template::AttestationEcc, |device, key| {
        device.quote_selection(key.handle, &TRANSCRIPT.short(), selection)
    });
    let (quote, signature) = quoted.unwrap();
    let pcr_values = Blob::new(evidence.pcr_values.as_bytes()[..values * 32].to_vec()).unwrap();
    Evidence { quote: blob(quote).unwrap(), signature: blob(signature).unwrap(), pcr_values, ..evidence }
}

#[test]
fn a_selection_that_is_narrower_than_the_policy_is_refused() {
    let (_directory, swtpm) = made(Certified::Ecc);
    let mut policy = policy(&swtpm);
    tpm::learn(&evidence(&mut tpm(&swtpm, None)), &mut policy);
    let narrow = quoting(&swtpm, &selection_of(ALG_SHA256, 0..7), 7);
    assert_eq!(refused(&appraise(&narrow, &policy)), Some("pcr 7"));
    policy.pcrs.retain(|register, _| *register < 7);
    assert_eq!(refused(&appraise(&narrow, &policy)), None, "wide enough for this one");
}

#[test]
fn the_bank_of_sha_1_is_refused() {
    let (_directory, swtpm) = made(Certified::Ecc);
    let evidence = quoting(&swtpm, &selection_of(0x0004, 0..24), 24);
    let appraisal = appraise(&evidence, &policy(&swtpm));
    let claim = appraisal.refusal().unwrap();
    assert_eq!((claim.name.as_str(), claim.value.as_str()), ("pcr bank", "SHA-1"));
}

#[test]
fn a_credential_for_another_attestation_key_is_not_recovered() {
    let (_directory, swtpm) = made(Certified::Rsa);
    let other = tpm(&swtpm, Some(KeyAlgorithm::Rsa)).keys().unwrap();
    let (_, credential) = Activation::new(other, &[3; 96]).unwrap();
    let error = tpm(&swtpm, Some(KeyAlgorithm::Ecc)).activate(&credential).unwrap_err();
    assert!(matches!(error, TpmError::Refused { command: "TPM2_ActivateCredential", .. }), "{error}");
    assert_eq!(left_behind(&swtpm), [0_u32; 0], "nothing stays loaded after a failure either");
}

#[test]
fn what_a_killed_agent_left_behind_does_not_stand_in_the_way() {
    let (_directory, swtpm) = made(Certified::Ecc);
    let tcti: Tcti = swtpm.tcti().parse().unwrap();
    for _ in 0..3 {
        // Three are as many as there is room for.
        let mut device = Device::open_as_it_is(&tcti).unwrap();
        device.leave_behind(Template::AttestationEcc).unwrap();
    }
    assert_eq!(left_behind(&swtpm).len(), 3);
    evidence(&mut tpm(&swtpm, None));
    assert_eq!(left_behind(&swtpm), [0_u32; 0]);
}

#[tokio::test]
async fn a_host_without_its_tpm_says_where_it_looked() {
    let tcti: Tcti = "swtpm:/nowhere/at/all".parse().unwrap();
    let mut attester = TpmAttester::new(TpmSource { tcti, attestation: None });
    let error = attester.keys().await.unwrap_err();
    assert!(error.contains("cannot open the TPM at swtpm:/nowhere/at/all"), "{error}");
}
