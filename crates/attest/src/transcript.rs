//! The transcript that every proof is bound to.

use carrick_types::{ClusterName, IdentityKey, MeshId, NodeId, WireGuardKey};
use sha2::{Digest as _, Sha512};

use crate::Kind;

/// What a proof is about: whose keys, in which mesh, at what moment, in which TLS session, under which policy.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// The cluster that the node is in.
    pub cluster: &'a ClusterName,
    /// The node's identity key; its id follows.
    pub identity_key: &'a IdentityKey,
    /// The node's WireGuard key.
    pub wireguard_key: &'a WireGuardKey,
    /// Fresh: derived from a head of the log and random bytes.
    pub nonce: &'a [u8; 32],
    /// The keying material that the TLS session exported (RFC 5705).
    pub exporter: &'a [u8; 32],
    /// The version of the policy bundle that the node saw.
    pub policy_version: u64,
    /// What runs on the node: SHA-256 of its agent's executable.
    pub runtime_digest: &'a [u8; 32],
}

/// `B` of the design: all that a proof is bound to, in 64 bytes. Evidence that cannot carry 64 bytes carries
/// [`Transcript::short`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript([u8; 64]);

impl Binding<'_> {
    /// `SHA-512` over the fields, each behind its length in 4 bytes, big-endian.
    pub fn transcript(&self, kind: Kind) -> Transcript {
        let node_id = NodeId::of(self.identity_key);
        let version = self.policy_version.to_be_bytes();
        let fields: [&[u8]; 11] = [
            b"carrick/attest/1",
            self.mesh.as_bytes(),
            self.cluster.as_str().as_bytes(),
            kind.as_str().as_bytes(),
            node_id.as_bytes(),
            self.wireguard_key.as_bytes(),
            self.identity_key.as_bytes(),
            self.nonce,
            self.exporter,
            &version,
            self.runtime_digest,
        ];
        let mut hash = Sha512::new();
        for field in fields {
            hash.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(field);
        }
        Transcript(hash.finalize().into())
    }
}

impl Transcript {
    /// A transcript of these bytes, for tests and for tools.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// All of it.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The first half.
    pub fn short(&self) -> [u8; 32] {
        let mut short = [0; 32];
        short.copy_from_slice(&self.0[..32]);
        short
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::{IdentitySecret, WireGuardSecret};

    use super::*;

    #[test]
    fn a_transcript_changes_with_each_of_its_fields() {
        let (mesh, other_mesh) = (MeshId::from_bytes([1; 16]), MeshId::from_bytes([2; 16]));
        let (cluster, other_cluster) = ("east".parse().unwrap(), "west".parse().unwrap());
        let (identity, other_identity) =
            (IdentitySecret::from_bytes([3; 32]).public(), IdentitySecret::from_bytes([4; 32]).public());
        let (key, other_key) =
            (WireGuardSecret::from_bytes([5; 32]).public(), WireGuardSecret::from_bytes([6; 32]).public());
        let binding = Binding {
            mesh: &mesh,
            cluster: &cluster,
            identity_key: &identity,
            wireguard_key: &key,
            nonce: &[7; 32],
            exporter: &[8; 32],
            policy_version: 9,
            runtime_digest: &[10; 32],
        };
        let changed = [
            Binding { mesh: &other_mesh, ..binding },
            Binding { cluster: &other_cluster, ..binding },
            Binding { identity_key: &other_identity, ..binding },
            Binding { wireguard_key: &other_key, ..binding },
            Binding { nonce: &[0; 32], ..binding },
            Binding { exporter: &[0; 32], ..binding },
            Binding { policy_version: 0, ..binding },
            Binding { runtime_digest: &[0; 32], ..binding },
        ];
        let mut seen = vec![binding.transcript(Kind::Tpm), binding.transcript(Kind::SevSnp)];
        seen.extend(changed.iter().map(|binding| binding.transcript(Kind::Tpm)));
        for (at, transcript) in seen.iter().enumerate() {
            assert!(!seen[..at].contains(transcript), "{at}");
        }
    }
}
