//! Which TPMs an operator accepts, and what they must have measured.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Evidence, PCRS, Quote};
use crate::{Hex, hex::hex, x509::Certificate};

/// What an operator accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Certificate authorities of vendors, in PEM: roots, or intermediate ones that no TPM brings along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endorsement_roots: Vec<String>,
    /// Endorsement keys that need no certificate: SHA-256 of their public areas, hexadecimal.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub endorsement_keys: BTreeSet<String>,
    /// Attestation keys: SHA-256 of their public areas, hexadecimal. Where some are named, only these are good. A peer cannot see that
    /// an attestation key is of the TPM whose endorsement key is shown beside it, and believes the coordinator, which has seen it;
    /// of a key that is named here it need not.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub attestation_keys: BTreeSet<String>,
    /// Registers of the SHA-256 bank with the values that are good, hexadecimal. A register that is named must be quoted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pcrs: BTreeMap<u8, BTreeSet<String>>,
}

impl Policy {
    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.endorsement_roots.is_empty()
            && self.endorsement_keys.is_empty()
            && self.attestation_keys.is_empty()
        {
            return Err(
                "it names no root, no endorsement key and no attestation key: any TPM would do".to_owned()
            );
        }
        for certificate in self.roots()? {
            if !certificate.is_ca() {
                return Err(format!("{} is no certificate authority", certificate.subject()));
            }
        }
        if let Some(register) = self.pcrs.keys().find(|register| **register >= PCRS) {
            return Err(format!("there is no PCR {register}: they are 0 to {}", PCRS - 1));
        }
        if let Some((register, _)) = self.pcrs.iter().find(|(_, values)| values.is_empty()) {
            return Err(format!("PCR {register} has no value that is good"));
        }
        let texts = self.endorsement_keys.iter().chain(&self.attestation_keys);
        match texts.chain(self.pcrs.values().flatten()).find(|text| text.parse::<Hex<32>>().is_err()) {
            Some(text) => Err(format!("{text:?} is no SHA-256 in lower-case hexadecimal")),
            None => Ok(()),
        }
    }

    /// The certificates of `endorsement_roots`.
    pub(super) fn roots(&self) -> Result<Vec<Certificate>, String> {
        let mut roots = Vec::new();
        for pem in &self.endorsement_roots {
            roots.extend(Certificate::parse_pem(pem).map_err(|error| format!("endorsement_roots: {error}"))?);
        }
        Ok(roots)
    }
}

/// Writes the registers that evidence shows into a draft: those that it names, or all where it names none. Keys are not learnt:
/// which TPM to believe is for the operator to say.
pub fn learn(evidence: &Evidence, into: &mut Policy) {
    let Ok(quote) = Quote::parse(evidence.quote.as_bytes()) else { return };
    let named: Vec<u8> = into.pcrs.keys().copied().collect();
    for (register, value) in quote.selection.registers().zip(evidence.pcr_values.as_bytes().chunks_exact(32))
    {
        if named.is_empty() || named.contains(&register) {
            into.pcrs.entry(register).or_default().insert(hex(value));
        }
    }
}
