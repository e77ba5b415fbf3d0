//! The policy bundle: what the operator of a mesh accepts, signed; the one thing that nodes believe without evidence.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carrick_types::{ClusterName, CoordinatorKey, LeaseProfile, MeshId, OperatorKey, OperatorPin, UnixTime};
use serde::{Deserialize, Serialize};

use crate::{Bytes, Hex, Kind, Signable, Signed, kubernetes, nitro, sev_snp, tdx, tpm};

/// The most former operators that a bundle names, and the most successions that lead to one.
const MAX_OPERATORS: usize = 32;

/// The highest version, and the highest whole number that every reader of JSON takes as it is written.
const MAX_VERSION: u64 = (1 << 53) - 1;

/// How long a bundle holds unless its operator says otherwise.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What an operator accepts. Versions only rise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The mesh that it is for.
    pub mesh: MeshId,
    /// A lower one is never accepted.
    pub version: u64,
    /// No key is accepted under a bundle that has expired.
    pub expires_at: UnixTime,
    /// The key that signs the log of this mesh's coordinator.
    pub coordinator_key: CoordinatorKey,
    /// Operators before this one, whose join tokens still hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_operators: Vec<OperatorKey>,
    /// After how many seconds a node makes a new WireGuard key; 86,400 where it is left out.
    #[serde(default = "one_day")]
    pub rotate_keys_s: u32,
    /// A head of the log from which nodes take it up again, whatever they saw before: after a restored backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_restart: Option<LogHead>,
    /// For clusters that are not named below.
    pub default: ClusterPolicy,
    /// For these clusters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<ClusterName, ClusterPolicy>,
}

/// The head of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogHead {
    /// How many entries it has.
    pub size: u64,
    /// The head of their tree (RFC 6962).
    pub head: Bytes<32>,
}

/// What is accepted from the nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPolicy {
    /// Sets of evidence kinds. A node shows all kinds of one of them.
    #[serde(default = "a_join_token")]
    pub accept: Vec<BTreeSet<Kind>>,
    /// How long the word of the coordinator holds.
    #[serde(default)]
    pub lease: LeaseProfile,
    /// After how many seconds evidence is asked for again; 3,600 where it is left out. Join tokens are shown once.
    #[serde(default = "one_hour")]
    pub reattest_s: u32,
    /// SHA-256 of the agents that may run, hexadecimal; any where it is left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub runtime_digests: BTreeSet<String>,
    /// Which API servers may vouch, for which service accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<kubernetes::Policy>,
    /// Which TPMs, and what they must have measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<tpm::Policy>,
    /// Which SEV-SNP guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev_snp: Option<sev_snp::Policy>,
    /// Which TDX guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<tdx::Policy>,
    /// Which Nitro enclaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nitro: Option<nitro::Policy>,
}

/// One operator's word that another is the operator from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Succession {
    /// Of which mesh.
    pub mesh: MeshId,
    /// Who signs this.
    pub from: OperatorKey,
    /// Who follows.
    pub to: OperatorKey,
}

/// A bundle, who signed it, and how its signer came to be the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBundle {
    /// Who signed the bundle.
    pub operator: OperatorKey,
    /// From the first operator to this one; empty where it is the first.
    #[serde(default)]
    pub successions: Vec<Signed<Succession>>,
    /// The bundle.
    pub bundle: Signed<Bundle>,
}

/// A bundle whose signature was checked. Minted only by [`SignedBundle::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedBundle {
    bundle: Bundle,
    operator: OperatorKey,
}

/// Why a bundle is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The signer is not, and did not follow, the operator that was expected.
    #[error("it is signed by {0}, who is not this mesh's operator")]
    Stranger(OperatorKey),
    /// Not signed by the one it names, or not a bundle.
    #[error(transparent)]
    Signed(#[from] crate::SignedError),
    /// For another mesh.
    #[error("it is for mesh {0}")]
    OtherMesh(MeshId),
    /// Older than one that was seen.
    #[error("it has version {found}, version {seen} was seen before: versions only rise")]
    Older {
        /// Its version.
        found: u64,
        /// The highest that was seen.
        seen: u64,
    },
    /// Over.
    #[error("it expired at {0}: sign a new version")]
    Expired(UnixTime),
    /// Contradicts itself.
    #[error("{0}")]
    Senseless(String),
}

impl Signable for Bundle {
    const DOMAIN: &'static str = "carrick/bundle/1";
    const MAX: usize = 1024 * 1024;
}

impl Signable for Succession {
    const DOMAIN: &'static str = "carrick/succession/1";
    const MAX: usize = 1024;
}

impl SignedBundle {
    /// The bundle, if the operator behind `pin`, or one who followed, signed it for this mesh. Its version and expiry are for the caller.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(&self, pin: &OperatorPin, mesh: &MeshId) -> Result<TrustedBundle, BundleError> {
        if !self.leads_from(pin, mesh) {
            return Err(BundleError::Stranger(self.operator));
        }
        let bundle = self.bundle.open(&self.operator)?;
        if bundle.mesh != *mesh {
            return Err(BundleError::OtherMesh(bundle.mesh));
        }
        bundle.check()?;
        Ok(TrustedBundle { bundle, operator: self.operator })
    }

    /// From whom the successions lead: the first operator, as they say, or the signer where there is none.
    pub fn first_operator(&self) -> OperatorKey {
        let first = self.successions.first();
        let step = first.and_then(|signed| serde_json::from_str::<Succession>(signed.text()).ok());
        step.map_or(self.operator, |step| step.from)
    }

    /// Whether the signer is the operator behind `pin`, or follows that one by the successions, each signed by the one before.
    fn leads_from(&self, pin: &OperatorPin, mesh: &MeshId) -> bool {
        if OperatorPin::of(&self.operator) == *pin {
            return true;
        }
        let mut here: Option<OperatorKey> = None;
        for signed in self.successions.iter().take(MAX_OPERATORS) {
            let Ok(unverified) = serde_json::from_str::<Succession>(signed.text()) else { return false };
            let follows = match here {
                Some(here) => unverified.from == here,
                None => OperatorPin::of(&unverified.from) == *pin,
            };
            // Those before the pinned one led to it, and say nothing new.
            if !follows && here.is_none() {
                continue;
            }
            match signed.open(&unverified.from) {
                Ok(step) if follows && step.mesh == *mesh => here = Some(step.to),
                Ok(_) | Err(_) => return false,
            }
        }
        here == Some(self.operator)
    }
}

impl TrustedBundle {
    /// What it says.
    pub const fn get(&self) -> &Bundle {
        &self.bundle
    }

    /// Who signed it.
    pub const fn operator(&self) -> OperatorKey {
        self.operator
    }

    /// Those whose join tokens hold.
    pub fn operators(&self) -> Vec<OperatorKey> {
        std::iter::once(self.operator).chain(self.bundle.former_operators.iter().copied()).collect()
    }
}

impl Bundle {
    /// What is accepted from the nodes of a cluster.
    pub fn policy(&self, cluster: &ClusterName) -> &ClusterPolicy {
        self.clusters.get(cluster).unwrap_or(&self.default)
    }

    /// How often nodes say that they are there: as often as the shortest lease of any cluster asks.
    pub fn heartbeat(&self) -> Duration {
        let policies = self.clusters.values().chain([&self.default]);
        policies.map(|policy| policy.lease).max().unwrap_or_default().heartbeat()
    }

    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// [`BundleError::Senseless`].
    pub fn check(&self) -> Result<(), BundleError> {
        let senseless = |why: String| Err(BundleError::Senseless(why));
        if self.version > MAX_VERSION {
            return senseless(format!("its version is higher than {MAX_VERSION}: no version could follow"));
        }
        if self.former_operators.len() > MAX_OPERATORS {
            return senseless(format!("it names more than {MAX_OPERATORS} former operators"));
        }
        if self.rotate_keys_s < 60 {
            return senseless("rotate_keys_s is less than 60 seconds".to_owned());
        }
        let default: ClusterName = "default".parse().expect("it is a name");
        for (name, policy) in self.clusters.iter().chain([(&default, &self.default)]) {
            if let Err(why) = policy.check() {
                return senseless(format!("the policy of {name}: {why}"));
            }
        }
        Ok(())
    }
}

impl ClusterPolicy {
    /// How old evidence may be: a node that cannot show new evidence for a while is not cut off at once.
    pub const fn max_evidence_age(&self) -> Duration {
        Duration::from_secs(self.reattest_s as u64 * 2)
    }

    /// When evidence is asked for again.
    pub const fn reattest_after(&self) -> Duration {
        Duration::from_secs(self.reattest_s as u64)
    }

    fn check(&self) -> Result<(), String> {
        if self.accept.is_empty() || self.accept.iter().any(BTreeSet::is_empty) {
            return Err("`accept` names no evidence: every set takes one kind at least".to_owned());
        }
        if self.reattest_s < 10 {
            return Err("reattest_s is less than 10 seconds".to_owned());
        }
        if let Some(kind) = self.accept.iter().flatten().find(|kind| **kind == Kind::Identity) {
            return Err(format!("`{kind}` proves nothing by itself, and is always shown"));
        }
        if let Some(kind) = self.accept.iter().flatten().find(|kind| !self.has_policy_for(**kind)) {
            return Err(format!("it accepts {kind}, and has no section that says which"));
        }
        match self.runtime_digests.iter().find(|text| text.parse::<Hex<32>>().is_err()) {
            Some(text) => Err(format!("{text:?} is no SHA-256 in lower-case hexadecimal")),
            None => self.check_sections(),
        }
    }

    const fn has_policy_for(&self, kind: Kind) -> bool {
        match kind {
            Kind::Identity | Kind::JoinToken => true,
            Kind::Kubernetes => self.kubernetes.is_some(),
            Kind::Tpm => self.tpm.is_some(),
            Kind::SevSnp => self.sev_snp.is_some(),
            Kind::Tdx => self.tdx.is_some(),
            Kind::Nitro => self.nitro.is_some(),
        }
    }

    /// Every section makes sense in itself.
    fn check_sections(&self) -> Result<(), String> {
        let of = |kind: Kind| move |why: String| format!("{kind}: {why}");
        self.kubernetes.as_ref().map_or(Ok(()), |policy| policy.check().map_err(of(Kind::Kubernetes)))?;
        self.tpm.as_ref().map_or(Ok(()), |policy| policy.check().map_err(of(Kind::Tpm)))?;
        self.sev_snp.as_ref().map_or(Ok(()), |policy| policy.check().map_err(of(Kind::SevSnp)))?;
        self.tdx.as_ref().map_or(Ok(()), |policy| policy.check().map_err(of(Kind::Tdx)))?;
        self.nitro.as_ref().map_or(Ok(()), |policy| policy.check().map_err(of(Kind::Nitro)))
    }
}

impl Default for ClusterPolicy {
    /// A join token, and a lease that outlives a coordinator's restart.
    fn default() -> Self {
        Self {
            accept: a_join_token(),
            lease: LeaseProfile::default(),
            reattest_s: one_hour(),
            runtime_digests: BTreeSet::new(),
            kubernetes: None,
            tpm: None,
            sev_snp: None,
            tdx: None,
            nitro: None,
        }
    }
}

fn a_join_token() -> Vec<BTreeSet<Kind>> {
    vec![BTreeSet::from([Kind::JoinToken])]
}

const fn one_hour() -> u32 {
    3600
}

const fn one_day() -> u32 {
    86_400
}

#[cfg(test)]
mod tests {
    use carrick_types::{CoordinatorSecret, OperatorSecret};

    use super::*;

    const MESH: MeshId = MeshId::from_bytes([1; 16]);

    fn operator(n: u8) -> OperatorSecret {
        OperatorSecret::from_bytes([n; 32])
    }

    fn pin(n: u8) -> OperatorPin {
        OperatorPin::of(&operator(n).public())
    }

    fn bundle() -> Bundle {
        Bundle {
            mesh: MESH,
            version: 1,
            expires_at: UnixTime::from_millis(1000),
            coordinator_key: CoordinatorSecret::from_bytes([9; 32]).public(),
            former_operators: vec![],
            rotate_keys_s: one_day(),
            log_restart: None,
            default: ClusterPolicy::default(),
            clusters: BTreeMap::new(),
        }
    }

    fn succession(from: u8, to: u8) -> Signed<Succession> {
        let step = Succession { mesh: MESH, from: operator(from).public(), to: operator(to).public() };
        Signed::seal(&step, &operator(from))
    }

    fn signed(by: u8, successions: Vec<Signed<Succession>>) -> SignedBundle {
        let operator = operator(by);
        SignedBundle { operator: operator.public(), successions, bundle: Signed::seal(&bundle(), &operator) }
    }

    #[test]
    fn a_bundle_is_believed_from_the_operator_and_whoever_followed() {
        assert_eq!(signed(2, vec![]).open(&pin(2), &MESH).unwrap().get(), &bundle());
        let later = signed(4, vec![succession(2, 3), succession(3, 4)]);
        for first in [2, 3, 4] {
            later.open(&pin(first), &MESH).unwrap();
        }
    }

    #[test]
    fn a_bundle_of_a_stranger_is_refused_however_it_is_dressed() {
        let stranger =
            |bundle: SignedBundle| matches!(bundle.open(&pin(2), &MESH), Err(BundleError::Stranger(_)));
        assert!(stranger(signed(5, vec![])));
        assert!(stranger(signed(5, vec![succession(3, 5)])), "from nobody known");
        assert!(stranger(signed(5, vec![succession(2, 3)])), "to somebody else");
        let step = Succession { mesh: MESH, from: operator(2).public(), to: operator(5).public() };
        assert!(stranger(signed(5, vec![Signed::seal(&step, &operator(5))])), "by the successor itself");
        let elsewhere = Succession { mesh: MeshId::from_bytes([7; 16]), ..step };
        assert!(stranger(signed(5, vec![Signed::seal(&elsewhere, &operator(2))])), "of another mesh");
        let borrowed = SignedBundle { operator: operator(2).public(), ..signed(5, vec![]) };
        assert!(borrowed.open(&pin(2), &MESH).is_err(), "under another's name");
        assert_eq!(
            signed(2, vec![]).open(&pin(2), &MeshId::from_bytes([7; 16])),
            Err(BundleError::OtherMesh(MESH))
        );
    }

    #[test]
    fn a_bundle_that_contradicts_itself_is_refused_with_the_reason() {
        let why = |change: fn(&mut Bundle)| {
            let mut bundle = bundle();
            change(&mut bundle);
            bundle.check().unwrap_err().to_string()
        };
        assert!(why(|bundle| bundle.default.accept.clear()).contains("no evidence"));
        assert!(
            why(|bundle| bundle.default.accept = vec![BTreeSet::from([Kind::Identity])]).contains("nothing")
        );
        assert!(
            why(|bundle| bundle.default.accept = vec![BTreeSet::from([Kind::Tpm])]).contains("no section")
        );
        assert!(why(|bundle| bundle.default.reattest_s = 1).contains("reattest_s"));
        assert!(
            why(|bundle| bundle.default.runtime_digests = BTreeSet::from(["AB".to_owned()]))
                .contains("SHA-256")
        );
    }

    #[test]
    fn what_is_left_out_has_a_default_and_what_is_unknown_is_refused() {
        let json = serde_json::json!({
            "mesh": MESH, "version": 3, "expires_at": "2027-01-01T00:00:00Z",
            "coordinator_key": bundle().coordinator_key,
            "default": {}, "clusters": {"east": {"lease": "strict"}},
        });
        let parsed: Bundle = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(parsed.default, ClusterPolicy::default());
        assert_eq!(parsed.heartbeat(), Duration::from_millis(250), "the shortest lease sets the pace");
        let mut unknown = json;
        unknown["clusters"]["east"]["laese"] = "strict".into();
        serde_json::from_value::<Bundle>(unknown).unwrap_err();
    }
}
