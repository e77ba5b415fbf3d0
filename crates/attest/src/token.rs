//! Join tokens as evidence: a capability that an operator signed, and the token's own signature over the transcript.

use carrick_types::{Cidr, ClusterName, MeshId, OperatorKey, Signature, TokenId, TokenKey, UnixTime};
use serde::{Deserialize, Serialize};

use crate::{Appraisal, Kind, Signable, Signed, Transcript};

/// What a join token allows. Its holder proves itself with the seed of [`Capability::key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// The mesh it admits to.
    pub mesh: MeshId,
    /// The token's id.
    pub token: TokenId,
    /// The token's public half.
    pub key: TokenKey,
    /// The cluster that nodes join with it.
    pub cluster: ClusterName,
    /// How many may. The log counts them.
    pub uses: u32,
    /// Until when.
    pub expires_at: UnixTime,
    /// The prefixes within which a node may speak for networks; any private network where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Vec<Cidr>>,
}

impl Signable for Capability {
    const DOMAIN: &'static str = "carrick/token/1";
    const MAX: usize = 16 * 1024;
}

/// The evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What the operator signed.
    pub capability: Signed<Capability>,
    /// The token's signature over the transcript.
    pub signature: Signature,
}

/// Appraises the evidence of a node of `mesh` and `cluster`. `operators` are those whose tokens hold: today's, and former ones.
/// `now` is the moment at which the token was used.
pub fn appraise(
    evidence: &Evidence,
    (mesh, cluster): (&MeshId, &ClusterName),
    operators: &[OperatorKey],
    transcript: &Transcript,
    now: UnixTime,
) -> (Appraisal, Option<Capability>) {
    let mut appraisal = Appraisal::new(Kind::JoinToken);
    let opened =
        operators.iter().find_map(|operator| Some((operator, evidence.capability.open(operator).ok()?)));
    let Some((operator, capability)) = opened else {
        appraisal.refuse("operator", "unknown", "the token is not signed by this mesh's operator");
        return (appraisal, None);
    };
    appraisal.accept("operator", operator.to_string(), "signed the token");
    appraisal.check("mesh", capability.mesh.to_string(), capability.mesh == *mesh, "the mesh that is joined");
    let same = capability.cluster == *cluster;
    appraisal.check("cluster", capability.cluster.to_string(), same, "the cluster that is joined");
    let expires = capability.expires_at.to_string();
    appraisal.check("expires at", expires, now < capability.expires_at, "later than its use");
    let signed = capability.key.verifies(transcript.as_bytes(), &evidence.signature);
    appraisal.check("token", capability.token.to_string(), signed, "the token's seed signed this session");
    appraisal.show("uses", capability.uses.to_string());
    (appraisal, Some(capability))
}

#[cfg(test)]
mod tests {
    use carrick_types::{OperatorSecret, TokenSeed};

    use super::*;

    const TRANSCRIPT: Transcript = Transcript::from_bytes([9; 64]);
    const NOW: UnixTime = UnixTime::from_millis(1000);

    fn operator(n: u8) -> OperatorSecret {
        OperatorSecret::from_bytes([n; 32])
    }

    fn capability() -> Capability {
        Capability {
            mesh: MeshId::from_bytes([1; 16]),
            token: TokenId::from_bytes([2; 10]),
            key: TokenSeed::from_bytes([3; 32]).public(),
            cluster: "east".parse().unwrap(),
            uses: 1,
            expires_at: UnixTime::from_millis(2000),
            prefixes: None,
        }
    }

    fn evidence(capability: &Capability) -> Evidence {
        Evidence {
            capability: Signed::seal(capability, &operator(4)),
            signature: TokenSeed::from_bytes([3; 32]).sign(TRANSCRIPT.as_bytes()),
        }
    }

    /// The claim that is refused, where one is.
    fn refused(evidence: &Evidence, transcript: &Transcript, now: UnixTime) -> Option<String> {
        let mesh = MeshId::from_bytes([1; 16]);
        let place = (&mesh, &"east".parse().unwrap());
        let (appraisal, _) = appraise(evidence, place, &[operator(4).public()], transcript, now);
        assert_eq!(appraisal.is_accepted(), appraisal.refusal().is_none());
        appraisal.refusal().map(|claim| claim.name.clone())
    }

    #[test]
    fn a_token_admits_its_holder_until_it_expires() {
        let evidence = evidence(&capability());
        assert_eq!(refused(&evidence, &TRANSCRIPT, NOW), None);
        assert_eq!(refused(&evidence, &TRANSCRIPT, UnixTime::from_millis(2000)).unwrap(), "expires at");
    }

    #[test]
    fn a_token_of_another_mesh_cluster_or_operator_admits_nobody() {
        let other = Capability { mesh: MeshId::from_bytes([7; 16]), ..capability() };
        assert_eq!(refused(&evidence(&other), &TRANSCRIPT, NOW).unwrap(), "mesh");
        let other = Capability { cluster: "west".parse().unwrap(), ..capability() };
        assert_eq!(refused(&evidence(&other), &TRANSCRIPT, NOW).unwrap(), "cluster");
        let other =
            Evidence { capability: Signed::seal(&capability(), &operator(5)), ..evidence(&capability()) };
        assert_eq!(refused(&other, &TRANSCRIPT, NOW).unwrap(), "operator");
    }

    #[test]
    fn a_token_is_worth_nothing_without_its_seed_or_in_another_session() {
        assert_eq!(
            refused(&evidence(&capability()), &Transcript::from_bytes([8; 64]), NOW).unwrap(),
            "token"
        );
        let stranger = TokenSeed::from_bytes([6; 32]).sign(TRANSCRIPT.as_bytes());
        let thief = Evidence { signature: stranger, ..evidence(&capability()) };
        assert_eq!(refused(&thief, &TRANSCRIPT, NOW).unwrap(), "token");
    }
}
