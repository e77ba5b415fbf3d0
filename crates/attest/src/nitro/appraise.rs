//! The appraisal of a document: who signed it, then what it says.

use carrick_types::UnixTime;

use super::{CoseSign1, Document, DocumentError, ES384, Evidence, Policy};
use crate::{
    Appraisal, Hex, Kind, MAX_SKEW, Transcript,
    hex::hex,
    x509::{Algorithm, Certificate, Hash, PublicKey, X509Error},
};

/// Appraises evidence that is bound to `transcript`, as of `at`. Nothing is said of what the document holds before it is known who
/// signed it.
pub fn appraise(evidence: &Evidence, policy: &Policy, transcript: &Transcript, at: UnixTime) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::Nitro);
    let Some((cose, document)) = read(&mut appraisal, evidence) else { return appraisal };
    if check_signer(&mut appraisal, &cose, &document, policy, at).is_none() {
        return appraisal;
    }
    check_enclave(&mut appraisal, &document, policy, at);
    check_binding(&mut appraisal, &document, transcript);
    appraisal
}

fn read<'a>(appraisal: &mut Appraisal, evidence: &'a Evidence) -> Option<(CoseSign1<'a>, Document<'a>)> {
    let bytes = evidence.document.as_bytes();
    let malformed = |appraisal: &mut Appraisal, error: DocumentError| {
        appraisal.refuse(
            "document",
            format!("{} bytes", bytes.len()),
            format!("an attestation document: {error}"),
        );
    };
    let cose = CoseSign1::parse(bytes).map_err(|error| malformed(appraisal, error)).ok()?;
    let same = cose.algorithm == ES384;
    if !appraisal.check("algorithm", cose.algorithm.to_string(), same, "-35, which is ES384") {
        return None;
    }
    let document = Document::parse(cose.payload).map_err(|error| malformed(appraisal, error)).ok()?;
    Some((cose, document))
}

/// Whether a key signed the document that a pinned root certified for that. `None` where not: the rest would be the word of nobody.
fn check_signer(
    appraisal: &mut Appraisal,
    cose: &CoseSign1<'_>,
    document: &Document<'_>,
    policy: &Policy,
    at: UnixTime,
) -> Option<()> {
    let roots = match policy.roots() {
        Ok(roots) => roots,
        Err(why) => {
            appraisal.refuse("policy", "senseless", format!("one that makes sense: {why}"));
            return None;
        }
    };
    let leaf = match Certificate::parse(document.certificate) {
        Ok(leaf) if is_awss(&leaf) && !leaf.is_ca() => leaf,
        Ok(leaf) => {
            let expected =
                "a certificate of a P-384 key that is no authority's, signed with ECDSA and SHA-384";
            appraisal.refuse("certificate", leaf.subject(), expected);
            return None;
        }
        Err(error) => {
            appraisal.refuse("certificate", "unusable", format!("a certificate: {error}"));
            return None;
        }
    };
    check_chain(appraisal, &leaf, document, &roots, at)?;
    let signed = leaf.public_key().verifies_es384(&cose.signed_bytes(), cose.signature);
    appraisal.check("signature", "ES384", signed, "made with the certified key").then_some(())
}

/// Whether the bundle is the one way from a pinned root down to the leaf, without a gap or a spare certificate.
fn check_chain(
    appraisal: &mut Appraisal,
    leaf: &Certificate,
    document: &Document<'_>,
    roots: &[Certificate],
    at: UnixTime,
) -> Option<()> {
    let expected = "from a pinned root over each certificate of cabundle to the enclave's own";
    let bundle: Result<Vec<_>, _> = document.cabundle.iter().map(|der| Certificate::parse(der)).collect();
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => {
            appraisal.refuse("chain", error.to_string(), expected);
            return None;
        }
    };
    let (root, below) = bundle.split_first()?;
    if !roots.contains(root) {
        appraisal.refuse("root", root.subject(), "a root that the policy pins, first in cabundle");
        return None;
    }
    appraisal.accept("root", root.subject(), "pinned by the policy");
    match leaf.path_to(below, std::slice::from_ref(root), at) {
        Ok(path) => {
            let whole = path.iter().skip(1).copied().eq(bundle.iter().rev());
            let regular = whole && path.iter().all(|one| is_awss(one));
            let way: Vec<_> = path.iter().map(|one| one.subject()).collect();
            if !appraisal.check("chain", way.join(" < "), regular, expected) {
                return None;
            }
        }
        Err(error @ X509Error::Validity { .. }) => {
            appraisal.refuse("validity", error.to_string(), format!("a chain that is valid at {at}"));
            return None;
        }
        Err(_) => {
            appraisal.refuse("chain", leaf.subject(), expected);
            return None;
        }
    }
    let (from, to) = leaf.validity();
    appraisal.accept("validity", format!("{from} to {to}"), format!("valid at {at}"));
    Some(())
}

/// Whether the enclave is one that the policy takes, and closed.
fn check_enclave(appraisal: &mut Appraisal, document: &Document<'_>, policy: &Policy, at: UnixTime) {
    appraisal.show("module id", document.module_id);
    let made = UnixTime::from_millis(document.timestamp);
    let fresh = made.saturating_since(at).max(at.saturating_since(made)) <= MAX_SKEW;
    let expected = format!("within {} s of {at}", MAX_SKEW.as_secs());
    appraisal.check("timestamp", made.to_string(), fresh, expected);
    let mode = if document.is_debug() { "on" } else { "off" };
    appraisal.check("debug", mode, !document.is_debug(), "off: pcr 0 is not zero");
    for (index, known) in &policy.pcrs {
        let name = format!("pcr {index}");
        match document.pcrs.get(index) {
            Some(value) => {
                let value = Hex(**value);
                let expected = "one of the reference values";
                appraisal.check(&name, value.to_string(), known.contains(&value), expected);
            }
            None => appraisal.refuse(&name, "none", "one of the reference values"),
        }
    }
    let others = document.pcrs.iter().filter(|(index, _)| !policy.pcrs.contains_key(index));
    for (index, value) in
        others.map(|(index, value)| (index, Hex(**value))).filter(|(_, value)| !value.is_zero())
    {
        appraisal.show(&format!("pcr {index}"), value.to_string());
    }
    if let Some(key) = document.public_key {
        appraisal.show("public key", format!("{} bytes", key.len()));
    }
}

fn check_binding(appraisal: &mut Appraisal, document: &Document<'_>, transcript: &Transcript) {
    let data = document.user_data.unwrap_or_default();
    let bound = data == transcript.as_bytes();
    appraisal.check("user data", shown(data), bound, "this node's keys, in this session");
    // The transcript is all in user_data; whoever fills the nonce too, fills it with the same.
    let nonce = document.nonce.unwrap_or_default();
    let bound = nonce.is_empty() || nonce == transcript.short();
    appraisal.check("nonce", shown(nonce), bound, "none, or the first half of the user data");
}

/// Bytes for people: not more than a transcript has.
fn shown(bytes: &[u8]) -> String {
    match bytes {
        [] => "none".to_owned(),
        [..] if bytes.len() <= 64 => hex(bytes),
        [..] => format!("{} bytes", bytes.len()),
    }
}

/// Whether a certificate is of a P-384 key, and signed with ECDSA and SHA-384, as all of AWS's are.
pub(super) fn is_awss(certificate: &Certificate) -> bool {
    matches!(certificate.public_key(), PublicKey::P384(_))
        && certificate.signature_algorithm() == Algorithm::Ecdsa(Hash::Sha384)
}
