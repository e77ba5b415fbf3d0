//! Which guests an operator accepts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Product, SigningKey, Tcb};
use crate::{
    Blob, Hex,
    x509::{Algorithm, Certificate, Hash, MAX_REVOCATION_LIST, RevocationList},
};

/// The most revocation lists of a product line: one for VCEKs, one for VLEKs, and their successors.
const MAX_LISTS: usize = 4;

/// The least that AMD's own keys have.
const MIN_RSA_BITS: usize = 4096;

/// What an operator accepts. A set that is left out is not looked at; of `measurements`, `id_key_digests` and
/// `author_key_digests` one at least is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The lines of processors, each with its root.
    #[serde(default)]
    pub products: BTreeMap<Product, ProductPolicy>,
    /// Measurements of guests at launch: SHA-384.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub measurements: BTreeSet<Hex<48>>,
    /// SHA-384 of keys that sign ID blocks. Who holds one says which guests are good.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub id_key_digests: BTreeSet<Hex<48>>,
    /// SHA-384 of keys that sign ID keys.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub author_key_digests: BTreeSet<Hex<48>>,
    /// What the host may have said of the guest at launch.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub host_data: BTreeSet<Hex<32>>,
    /// Families of guests.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub family_ids: BTreeSet<Hex<16>>,
    /// Images of guests.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub image_ids: BTreeSet<Hex<16>>,
    /// The cloud providers whose VLEKs are good, as AMD names them; any where it is left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub providers: BTreeSet<String>,
    /// The lowest version of a guest, by its owner.
    #[serde(default)]
    pub minimum_guest_svn: u32,
    /// Whether guests may be launched so that they run beside a stranger's hyperthread.
    #[serde(default)]
    pub allow_smt: bool,
    /// Whether guests may have a migration agent, which then is as trusted as they are.
    #[serde(default)]
    pub allow_migration: bool,
    /// The highest privilege level number in the guest that may ask for a report: 0, the most privileged, where it is left out.
    #[serde(default)]
    pub max_vmpl: u8,
}

/// A line of processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductPolicy {
    /// AMD's root of the line (ARK), in PEM.
    pub ark: String,
    /// What issues VCEKs (ASK), in PEM. Without it, no VCEK is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
    /// What issues VLEKs (ASVK), in PEM. Without it, no VLEK is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asvk: Option<String>,
    /// Revocation lists of the root, DER in base64. Each must be current: an operator who gives one keeps it so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocation_lists: Vec<Blob<MAX_REVOCATION_LIST>>,
    /// The lowest firmware and microcode, of what the key was derived for, of what the host can go back to, and at launch.
    pub minimum_tcb: Tcb,
}

/// Who may issue keys of one kind.
pub(super) struct Issuer {
    pub(super) ark: Certificate,
    pub(super) intermediate: Certificate,
    pub(super) lists: Vec<RevocationList>,
}

impl Policy {
    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.products.is_empty() {
            return Err("`products` is empty: name milan, genoa or turin, with AMD's certificates".to_owned());
        }
        let of_guests = [&self.measurements, &self.id_key_digests, &self.author_key_digests];
        if of_guests.iter().all(|set| set.is_empty()) {
            return Err("any guest would do: give `measurements`, `id_key_digests` or `author_key_digests`"
                .to_owned());
        }
        if of_guests.iter().any(|set| set.contains(&Hex([0; 48]))) {
            return Err(
                "a measurement or digest is all zero, which is what a guest without one has".to_owned()
            );
        }
        if self.max_vmpl > 3 {
            return Err(format!("max_vmpl is {}, and the levels are 0 to 3", self.max_vmpl));
        }
        self.products
            .iter()
            .try_for_each(|(product, line)| line.check(*product).map_err(|why| format!("{product}: {why}")))
    }
}

impl ProductPolicy {
    fn check(&self, product: Product) -> Result<(), String> {
        if self.ask.is_none() && self.asvk.is_none() {
            return Err("neither `ask` nor `asvk` is given: no key would be accepted".to_owned());
        }
        if product != Product::Turin && self.minimum_tcb.fmc != 0 {
            return Err("minimum_tcb.fmc is there from turin on".to_owned());
        }
        for kind in [SigningKey::Vcek, SigningKey::Vlek] {
            let Some(issuer) = self.issuer(kind)? else { continue };
            let Issuer { ark, intermediate, lists } = issuer;
            ark.check_issued_by(&ark)
                .map_err(|_| "`ark` is not a root: it is not signed by itself".to_owned())?;
            intermediate
                .check_issued_by(&ark)
                .map_err(|_| format!("{} is not issued by `ark`", intermediate.subject()))?;
            if lists.iter().any(|list| !list.is_signed_by(&ark)) {
                return Err("a revocation list is not signed by `ark`".to_owned());
            }
            if lists.iter().any(|list| list.revokes(&intermediate)) {
                return Err(format!("{} is revoked", intermediate.subject()));
            }
            // AMD names its certificates after the line: a chain that was pasted in the wrong place shows.
            let line = format!("-{product}");
            if let Some(other) = [&ark, &intermediate].into_iter().find(|one| !one.subject().contains(&line))
            {
                return Err(format!("{} is of another product line", other.subject()));
            }
        }
        Ok(())
    }

    /// Who may issue keys of a kind; `None` where the policy names nobody.
    pub(super) fn issuer(&self, kind: SigningKey) -> Result<Option<Issuer>, String> {
        let (name, pem) = match kind {
            SigningKey::Vcek => ("ask", self.ask.as_ref()),
            SigningKey::Vlek => ("asvk", self.asvk.as_ref()),
        };
        let Some(pem) = pem else { return Ok(None) };
        if self.revocation_lists.len() > MAX_LISTS {
            return Err(format!("more than {MAX_LISTS} revocation lists"));
        }
        let lists = self.revocation_lists.iter().map(list).collect::<Result<_, _>>()?;
        Ok(Some(Issuer { ark: authority("ark", &self.ark)?, intermediate: authority(name, pem)?, lists }))
    }
}

/// Reads the one certificate of a field: signed as AMD signs, with a key as long as AMD's.
fn authority(name: &str, pem: &str) -> Result<Certificate, String> {
    let mut certificates = Certificate::parse_pem(pem).map_err(|error| format!("`{name}`: {error}"))?;
    let (Some(certificate), true) = (certificates.pop(), certificates.is_empty()) else {
        return Err(format!("`{name}` holds more than one certificate"));
    };
    if !is_amds(certificate.signature_algorithm()) {
        return Err(format!("`{name}` is not signed with RSASSA-PSS and SHA-384"));
    }
    if certificate.public_key().rsa_bits().is_none_or(|bits| bits < MIN_RSA_BITS) {
        return Err(format!("`{name}` has no RSA key of {MIN_RSA_BITS} bits"));
    }
    Ok(certificate)
}

fn list(der: &Blob<MAX_REVOCATION_LIST>) -> Result<RevocationList, String> {
    let list =
        RevocationList::parse(der.as_bytes()).map_err(|error| format!("`revocation_lists`: {error}"))?;
    if is_amds(list.signature_algorithm()) {
        Ok(list)
    } else {
        Err("a revocation list is not signed with RSASSA-PSS and SHA-384".to_owned())
    }
}

/// The one algorithm that AMD signs certificates with.
pub(super) fn is_amds(algorithm: Algorithm) -> bool {
    algorithm == Algorithm::RsaPss(Hash::Sha384)
}
