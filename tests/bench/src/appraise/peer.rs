//! What a node does before the key of a peer enters its device: signature, consistency, inclusion, and the evidence itself.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use carrick_attest::{Bytes, Statement, appraise, grant};
use carrick_trust::{Memory, Myself, Witness};
use carrick_types::{NodeId, Revision};
use carrick_wire::{
    hello::{Head, Trust},
    log::{
        Checkpoint, Decision, Entry, Origin,
        tree::{Tree, leaf_hash},
    },
    netmap::{GrantProof, LogNews, Logged, Netmap, NetmapDelta, OwnNode, Peer},
    session::{ToNode, decode, encode},
};

use super::paper::{self, MESH, NOW, Node};

/// The node that is told; no peer has its number.
const ME: u16 = 60_000;

/// Deltas with one new peer each, until the mesh has so many: how long each took, in milliseconds.
pub(super) fn deltas(peers: u16) -> Result<Vec<f64>> {
    let mut log = Log::default();
    log.grant(1)?;
    let mut witness = newcomer()?;
    take(&mut witness, &log.netmap()?)?;
    let mut each = Vec::new();
    for n in 2..=peers {
        log.grant(n)?;
        let delta = log.delta(witness.head())?;
        each.push(take(&mut witness, &delta)?);
    }
    check_believed(&witness, peers)?;
    Ok(each)
}

/// A whole netmap of so many peers, taken by one newcomer after the other: how long each took, in milliseconds.
pub(super) fn netmaps(peers: u16, times: usize) -> Result<Vec<f64>> {
    let mut log = Log::default();
    (1..=peers).try_for_each(|n| log.grant(n))?;
    let netmap = log.netmap()?;
    let mut each = Vec::new();
    for _ in 0..times {
        let mut witness = newcomer()?;
        each.push(take(&mut witness, &netmap)?);
        check_believed(&witness, peers)?;
    }
    Ok(each)
}

/// Takes a message as it comes from the session.
fn take(witness: &mut Witness, message: &[u8]) -> Result<f64> {
    let since = Instant::now();
    let message = decode(message)?;
    if let ToNode::Netmap(netmap) = message {
        witness.handle_netmap(netmap, NOW)?;
    } else if let ToNode::Delta(delta) = message {
        witness.handle_delta(delta, NOW)?;
    } else {
        bail!("not about peers: {message:?}");
    }
    Ok(since.elapsed().as_secs_f64() * 1000.0)
}

fn check_believed(witness: &Witness, peers: u16) -> Result<()> {
    let view = witness.view().context("no netmap was taken")?;
    ensure!(view.doubted.is_empty(), "a peer is doubted: {:?}", view.doubted.values().next());
    ensure!(view.members.len() == usize::from(peers), "{} of {peers} are believed", view.members.len());
    Ok(())
}

fn newcomer() -> Result<Witness> {
    let subject = Node::new(ME).subject();
    let myself = Myself {
        id: NodeId::of(&subject.identity_key),
        wireguard_key: subject.wireguard_key,
        prefixes: Vec::new(),
    };
    let mut witness = Witness::new(MESH, myself, Trust::Evidence, Memory::new(paper::operator_pin(), 0));
    witness.handle_bundle(&paper::bundle(), NOW)?;
    Ok(witness)
}

/// The coordinator's log of grants, one a revision.
#[derive(Default)]
struct Log {
    tree: Tree,
    /// Each peer with its entry and its statements.
    grants: Vec<(u16, String, Vec<String>)>,
}

impl Log {
    fn grant(&mut self, n: u16) -> Result<()> {
        let node = Node::new(n);
        let statements = node.statements();
        let earned = appraise(&node.subject(), &statements, &paper::trusted(), NOW)?;
        let grant = grant(&earned, node.name(), node.allowed_ips());
        let entry = Entry { at: NOW, decision: Decision::Granted { grant, token: None } }.to_text();
        self.tree.push(leaf_hash(entry.as_bytes()));
        self.grants.push((n, entry, statements.iter().map(Statement::to_text).collect()));
        Ok(())
    }

    fn news(&self, seen: Option<Head>) -> Result<LogNews> {
        let size = self.tree.size();
        let head = self.tree.head(size).context("the tree has a head")?;
        let checkpoint = Checkpoint { origin: Origin { mesh: MESH, restart: None }, size, head }
            .sign(&paper::coordinator())
            .to_string();
        let proof = seen.and_then(|seen| self.tree.consistency(seen.size, size)).unwrap_or_default();
        Ok(LogNews { checkpoint, consistency: proof.into_iter().map(Bytes).collect() })
    }

    fn peer(&self, index: usize) -> Result<Peer> {
        let (n, entry, statements) = &self.grants[index];
        let index = index as u64;
        let proof = self.tree.inclusion(index, self.tree.size()).context("it is in the log")?;
        let logged =
            Logged { index, entry: entry.clone(), inclusion: proof.into_iter().map(Bytes).collect() };
        // Identities and join tokens do not grow old.
        let moments = vec![Vec::new(); statements.len()];
        let [high, low] = n.to_be_bytes();
        Ok(Peer {
            id: NodeId::of(&Node::new(*n).subject().identity_key),
            endpoints: vec![([192, 0, high, low], 51820).into()],
            grant: Some(GrantProof { logged, statements: statements.clone(), moments }),
        })
    }

    fn netmap(&self) -> Result<Vec<u8>> {
        let own = OwnNode {
            overlay_v4: [100, 127, 0, 1].into(),
            overlay_v6: "fd00::1:1".parse()?,
            prefixes: Vec::new(),
            wireguard_key: Node::new(ME).subject().wireguard_key,
        };
        let peers = (0..self.grants.len()).map(|index| self.peer(index)).collect::<Result<_>>()?;
        let revision = Revision(self.tree.size());
        Ok(encode(&ToNode::Netmap(Netmap {
            revision,
            own,
            peers,
            revocations: Vec::new(),
            log: self.news(None)?,
        })))
    }

    /// What came with the last grant.
    fn delta(&self, seen: Option<Head>) -> Result<Vec<u8>> {
        let last = self.grants.len().checked_sub(1).context("nobody was granted anything")?;
        Ok(encode(&ToNode::Delta(NetmapDelta {
            from: Revision(self.tree.size() - 1),
            to: Revision(self.tree.size()),
            own: None,
            upserts: vec![self.peer(last)?],
            removes: Vec::new(),
            revocations: Vec::new(),
            log: Some(self.news(seen)?),
        })))
    }
}
