//! Who was the operator when, and whose join tokens held then: what the policy bundles say that were in force one after the other.

use std::collections::{BTreeMap, BTreeSet};

use carrick_attest::{Bytes, SignedBundle, TrustedBundle, policy::BundleError};
use carrick_types::{MeshId, OperatorKey, OperatorPin};
use sha2::{Digest as _, Sha256};

/// Every policy bundle that was ever in force, believed for the sake of one operator: that one's, those of whoever followed by a word of
/// the one before, and those of whoever a later bundle names as a former operator.
#[derive(Debug, Clone, Default)]
pub struct Bundles(BTreeMap<u64, Term>);

/// A bundle, and what is asked about it.
#[derive(Debug, Clone)]
pub(super) struct Term {
    signed: SignedBundle,
    trusted: TrustedBundle,
    pub(super) sha256: Bytes<32>,
}

/// Why the bundles are not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundlesError {
    /// There are none.
    #[error("there is no policy bundle")]
    None,
    /// One is not what it should be, or its signer is nobody of whom the pinned operator or a later bundle knows.
    #[error("policy bundle {version} is not believed: {why}")]
    Bundle {
        /// Its version; 0 where it cannot be read.
        version: u64,
        /// Why.
        why: BundleError,
    },
    /// Two of one version.
    #[error("there are two policy bundles of version {0}")]
    Twice(u64),
}

impl Bundles {
    /// Opens every bundle that was ever in force, in any order. The last one's operator is the one behind `pin`, or followed.
    ///
    /// # Errors
    /// [`BundlesError`], where one of them is not believed.
    pub fn open(pin: &OperatorPin, mesh: &MeshId, signed: Vec<SignedBundle>) -> Result<Self, BundlesError> {
        let mut terms = BTreeMap::new();
        for signed in signed {
            let opened = signed.open(&OperatorPin::of(&signed.operator), mesh);
            let trusted = opened.map_err(|why| BundlesError::Bundle { version: 0, why })?;
            let version = trusted.get().version;
            let sha256 = Bytes(Sha256::digest(signed.bundle.text()).into());
            if terms.insert(version, Term { signed, trusted, sha256 }).is_some() {
                return Err(BundlesError::Twice(version));
            }
        }
        // From the last to the first: nobody makes himself a predecessor, whoever follows names those before.
        let mut known: BTreeSet<OperatorKey> = BTreeSet::new();
        for (&version, term) in terms.iter().rev() {
            if !known.contains(&term.operator()) {
                term.signed.open(pin, mesh).map_err(|why| BundlesError::Bundle { version, why })?;
            }
            known.extend(term.trusted.operators());
        }
        if terms.is_empty() { Err(BundlesError::None) } else { Ok(Self(terms)) }
    }

    /// The last one.
    pub fn last(&self) -> Option<&TrustedBundle> {
        self.0.values().next_back().map(|term| &term.trusted)
    }

    pub(super) fn of_version(&self, version: u64) -> Option<&Term> {
        self.0.get(&version)
    }
}

impl Term {
    pub(super) const fn operator(&self) -> OperatorKey {
        self.trusted.operator()
    }

    /// Those whose join tokens hold while it is in force.
    pub(super) fn operators(&self) -> Vec<OperatorKey> {
        self.trusted.operators()
    }

    /// Whether its signer is this operator, or followed by its word.
    pub(super) fn follows(&self, operator: &OperatorKey, mesh: &MeshId) -> bool {
        self.signed.open(&OperatorPin::of(operator), mesh).is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use carrick_attest::{
        Bundle, Signed,
        policy::{ClusterPolicy, Succession},
    };
    use carrick_types::{CoordinatorSecret, OperatorSecret, UnixTime};

    use super::*;

    pub(in super::super) const MESH: MeshId = MeshId::from_bytes([1; 16]);

    pub(in super::super) fn operator(n: u8) -> OperatorSecret {
        OperatorSecret::from_bytes([n; 32])
    }

    pub(in super::super) fn pin(n: u8) -> OperatorPin {
        OperatorPin::of(&operator(n).public())
    }

    /// A version of the bundle by an operator, who names these as former ones and came to be one by these steps.
    pub(in super::super) fn signed(version: u64, by: u8, former: &[u8], steps: &[(u8, u8)]) -> SignedBundle {
        let bundle = Bundle {
            mesh: MESH,
            version,
            expires_at: UnixTime::from_millis(9),
            coordinator_key: CoordinatorSecret::from_bytes([3; 32]).public(),
            former_operators: former.iter().map(|n| operator(*n).public()).collect(),
            rotate_keys_s: 60,
            log_restart: None,
            default: ClusterPolicy::default(),
            clusters: BTreeMap::new(),
        };
        let step = |&(from, to): &(u8, u8)| {
            let step = Succession { mesh: MESH, from: operator(from).public(), to: operator(to).public() };
            Signed::seal(&step, &operator(from))
        };
        SignedBundle {
            operator: operator(by).public(),
            successions: steps.iter().map(step).collect(),
            bundle: Signed::seal(&bundle, &operator(by)),
        }
    }

    #[test]
    fn a_former_operator_is_known_from_either_side_and_a_stranger_from_none() {
        let taken_out =
            || vec![signed(1, 2, &[], &[]), signed(2, 3, &[2], &[(2, 3)]), signed(3, 3, &[], &[(2, 3)])];
        for n in [2, 3] {
            assert_eq!(Bundles::open(&pin(n), &MESH, taken_out()).unwrap().last().unwrap().get().version, 3);
        }
        let refused = |n, bundles| Bundles::open(&pin(n), &MESH, bundles).unwrap_err();
        assert!(refused(4, taken_out()).to_string().starts_with("policy bundle 3 is not believed"));
        // That somebody says that the operator follows him makes him nobody's former operator.
        let forged = vec![signed(1, 7, &[], &[]), signed(2, 3, &[], &[(7, 3)])];
        assert!(refused(3, forged).to_string().starts_with("policy bundle 1 is not believed"));
        assert_eq!(refused(3, [taken_out(), taken_out()].concat()), BundlesError::Twice(1));
        assert_eq!(refused(3, vec![]), BundlesError::None);
    }
}
