//! A coordinator that speaks another version.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, thread};

use carrick_attest::{Bundle, Bytes, Signed, SignedBundle, policy::ClusterPolicy};
use carrick_lab::in_lab;
use carrick_types::{
    CaPin, ChallengeKey, CoordinatorSecret, JoinToken, MeshId, NodeId, OperatorPin, OperatorSecret, Revision,
    TokenId, TokenSeed, UnixTime, WireGuardSecret,
};
use carrick_wire::{
    hello::Request,
    log::{
        Checkpoint, Origin,
        tree::{empty_head, leaf_hash},
    },
    netmap::{LogNews, Netmap, NetmapDelta, OwnNode},
    session::{Challenge, ToNode, Welcome, encode},
};
use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use crate::{
    bystanders::{Bystanders, EAST},
    support::{PATIENCE, guest},
};

const UNKNOWN: &str =
    "the other side speaks session version 9, this carrick speaks 1: upgrade the older of the two";

#[test]
fn a_netmap_of_an_unknown_version_stops_a_node_that_joins_and_no_node_that_runs() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let impostor = Impostor::new(net.mesh.nodes[EAST].underlay[0]);
        let token = impostor.token();
        let sessions = [
            (vec![of_another_version(&challenge())], Then::Waits),
            (vec![challenge(), welcome(), of_another_version(&netmap())], Then::Waits),
            (vec![challenge(), welcome(), netmap()], Then::HangsUp),
            (vec![challenge(), welcome(), of_another_version(&delta())], Then::Waits),
            (vec![challenge(), welcome(), delta()], Then::Waits),
        ];
        thread::scope(|scope| {
            let host = &net.mesh.nodes[EAST].host;
            scope.spawn(|| guest::on(host, async || impostor.serve(&sessions).await));
            for _ in 0..2 {
                let error = net.refused(Some(&token), &[]);
                assert_eq!(error, format!("the coordinator is not understood: {UNKNOWN}"));
            }
            // A node that runs keeps what it has, says so, and is there when it is spoken to in words that it knows.
            let node = net.start_newcomer(Some(&token), &[]);
            node.wait_for_line("netmap applied revision=1 peers=0", PATIENCE).unwrap();
            let line = node.wait_for_line(UNKNOWN, PATIENCE).unwrap();
            assert!(line.contains("trying again") && line.contains("tunnels_kept=true"), "{line}");
            let state = net.newcomer().host.network_state().unwrap();
            assert!(
                state.lines().any(|line| line.starts_with("address 100.64.0.1/32 dev carrick0")),
                "{state}"
            );
            node.wait_for_line("netmap applied revision=2 peers=0", PATIENCE).unwrap();
            assert!(node.terminate(PATIENCE).unwrap().success(), "{}", node.output());
        });
        net.assert_unharmed();
    });
}

/// A coordinator that says whatever it is told to.
struct Impostor {
    address: SocketAddr,
    pin: CaPin,
    tls: TlsAcceptor,
}

impl Impostor {
    /// It has an authority of its own, which its tokens pin.
    fn new(ip: std::net::IpAddr) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let root = CertificateDer::from(authority.self_signed(&authority_key).unwrap());
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["coordinator.carrick.internal".to_owned()]).unwrap();
        let leaf =
            CertificateDer::from(leaf.signed_by(&key, &Issuer::new(authority, &authority_key)).unwrap());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let pin = CaPin::of(&root);
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf, root], key).unwrap();
        Self { address: (ip, 9443).into(), pin, tls: Arc::new(config).into() }
    }

    fn token(&self) -> String {
        JoinToken {
            id: TokenId::from_bytes([1; 10]),
            mesh: mesh(),
            cluster: "east".parse().unwrap(),
            ca: self.pin,
            operator: OperatorPin::of(&operator().public()),
            policy_version: 1,
            seed: TokenSeed::from_bytes([4; 32]),
            urls: vec![format!("https://{}", self.address)],
        }
        .to_string()
    }

    /// Serves one session after the other: says its messages, and hears the node's hello after the first of them.
    async fn serve(&self, sessions: &[(Vec<Vec<u8>>, Then)]) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        for (messages, then) in sessions {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = accept_async(self.tls.accept(stream).await.unwrap()).await.unwrap();
            for (said, message) in messages.iter().enumerate() {
                if said == 1 {
                    assert!(matches!(socket.next().await, Some(Ok(Message::Binary(_)))));
                }
                socket.send(Message::Binary(message.clone().into())).await.unwrap();
            }
            match then {
                Then::HangsUp => {}
                Then::Waits => while socket.next().await.is_some_and(|message| message.is_ok()) {},
            }
        }
    }
}

/// How a session ends: by the coordinator, or by the node.
enum Then {
    HangsUp,
    Waits,
}

fn mesh() -> MeshId {
    MeshId::from_bytes([2; 16])
}

fn operator() -> OperatorSecret {
    OperatorSecret::from_bytes([5; 32])
}

fn signing_key() -> CoordinatorSecret {
    CoordinatorSecret::from_bytes([7; 32])
}

fn challenge() -> Vec<u8> {
    let key = WireGuardSecret::from_bytes([6; 32]).public();
    let request = Request {
        mesh: mesh(),
        log_size: 0,
        log_head: Bytes(empty_head()),
        salt: Bytes([2; 32]),
        challenge_key: ChallengeKey::from_bytes(*key.as_bytes()).unwrap(),
    };
    let bundle = Bundle {
        mesh: mesh(),
        version: 1,
        expires_at: UnixTime::from_millis(u64::MAX),
        coordinator_key: signing_key().public(),
        former_operators: Vec::new(),
        rotate_keys_s: 86_400,
        log_restart: None,
        default: ClusterPolicy::default(),
        clusters: BTreeMap::new(),
    };
    let operator = operator();
    let bundle = SignedBundle {
        operator: operator.public(),
        successions: Vec::new(),
        bundle: Signed::seal(&bundle, &operator),
    };
    encode(&ToNode::Challenge(Challenge { request, bundle }))
}

fn welcome() -> Vec<u8> {
    encode(&ToNode::Welcome(Welcome {
        node: NodeId::from_bytes([3; 16]),
        name: "east-2".parse().unwrap(),
        cluster: "east".parse().unwrap(),
        observed_ip: "192.0.2.12".parse().unwrap(),
        stun_port: None,
    }))
}

fn netmap() -> Vec<u8> {
    let own = OwnNode {
        overlay_v4: "100.64.0.1".parse().unwrap(),
        overlay_v6: "fd01::1".parse().unwrap(),
        prefixes: Vec::new(),
        wireguard_key: WireGuardSecret::from_bytes([8; 32]).public(),
    };
    let head = leaf_hash(b"the only entry");
    let checkpoint = Checkpoint { origin: Origin { mesh: mesh(), restart: None }, size: 1, head }
        .sign(&signing_key())
        .to_string();
    let log = LogNews { checkpoint, consistency: Vec::new() };
    encode(&ToNode::Netmap(Netmap {
        revision: Revision(1),
        own,
        peers: Vec::new(),
        revocations: Vec::new(),
        log,
    }))
}

fn delta() -> Vec<u8> {
    let (from, to) = (Revision(1), Revision(2));
    let (upserts, removes, revocations) = (Vec::new(), Vec::new(), Vec::new());
    encode(&ToNode::Delta(NetmapDelta { from, to, own: None, upserts, removes, revocations, log: None }))
}

/// The message with a version that does not exist yet.
fn of_another_version(message: &[u8]) -> Vec<u8> {
    [&[9], &message[1..]].concat()
}
