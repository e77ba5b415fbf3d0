//! What holds for any sequence of changes and any corruption.

use carrick_trust::{Member, Witness};
use carrick_wire::{hello::Trust, netmap::Netmap};
use proptest::prelude::*;

use crate::mesh::{Mesh, NOW, Profile, Standing, members, newcomer};

#[derive(Debug, Clone)]
enum Change {
    Join,
    Move(prop::sample::Index, u16),
    Rotate(prop::sample::Index),
    GivePrefix(prop::sample::Index, prop::sample::Index),
    Suspend(prop::sample::Index),
    Revoke(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let node = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(Change::Join),
        2 => (node(), 1..u16::MAX).prop_map(|(node, port)| Change::Move(node, port)),
        2 => node().prop_map(Change::Rotate),
        2 => (node(), node()).prop_map(|(from, to)| Change::GivePrefix(from, to)),
        2 => node().prop_map(Change::Suspend),
        1 => node().prop_map(Change::Revoke),
    ]
}

/// One honest change, where it is possible.
fn apply(mesh: &mut Mesh, change: Change) {
    let pick = |mesh: &Mesh, index: prop::sample::Index| {
        let nodes: Vec<u8> = mesh
            .nodes
            .iter()
            .filter(|(_, record)| record.standing != Standing::Revoked)
            .map(|(n, _)| *n)
            .collect();
        (!nodes.is_empty()).then(|| nodes[index.index(nodes.len())])
    };
    let next_key = |mesh: &Mesh| 101 + u8::try_from(mesh.tree.size() % 150).unwrap();
    match change {
        Change::Join => {
            let n = u8::try_from(mesh.nodes.len() + 1).unwrap();
            mesh.grant(Profile::of(n));
        }
        Change::Move(index, port) => {
            if let Some(n) = pick(mesh, index) {
                mesh.move_to(n, &[([192, 0, 2, 1], port).into()]);
            }
        }
        Change::Rotate(index) => {
            if let Some(n) = pick(mesh, index) {
                let profile = mesh.nodes[&n].profile.clone().with_key(next_key(mesh));
                mesh.grant(profile);
            }
        }
        Change::GivePrefix(from, to) => {
            if let (Some(from), Some(to)) = (pick(mesh, from), pick(mesh, to))
                && from != to
                && !mesh.nodes[&from].profile.prefixes.is_empty()
            {
                let mut giver = mesh.nodes[&from].profile.clone();
                let mut taker = mesh.nodes[&to].profile.clone();
                taker.prefixes.append(&mut giver.prefixes);
                mesh.grant(giver);
                mesh.grant(taker);
            }
        }
        Change::Suspend(index) => {
            if let Some(n) = pick(mesh, index) {
                match mesh.nodes[&n].standing {
                    Standing::Active => mesh.suspend(n),
                    Standing::Suspended => mesh.resume(n),
                    Standing::Revoked => unreachable!("it was not picked"),
                }
            }
        }
        Change::Revoke(index) => {
            if let Some(n) = pick(mesh, index) {
                mesh.revoke(n);
            }
        }
    }
}

fn watching(mesh: &Mesh) -> Witness {
    let mut witness = newcomer(Trust::Evidence);
    witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
    mesh.show_whole(&mut witness).unwrap();
    witness
}

/// Everything that was shown of a member, and not only who it is.
fn believed(witness: &Witness) -> Vec<Member> {
    members(witness);
    witness.view().unwrap().members.values().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn deltas_one_by_one_or_in_leaps_lead_to_the_whole_netmap(
        changes in prop::collection::vec((change(), any::<bool>()), 1..24),
    ) {
        let mut mesh = Mesh::new();
        let mut witness = watching(&mesh);
        for (change, look) in changes {
            apply(&mut mesh, change);
            if look {
                mesh.show(&mut witness).unwrap();
            }
        }
        mesh.show(&mut witness).unwrap();
        let whole = watching(&mesh);
        prop_assert!(witness.view().unwrap().doubted.is_empty());
        prop_assert_eq!(witness.view(), whole.view());
        let active = mesh.nodes.values().filter(|record| record.standing == Standing::Active).count();
        prop_assert_eq!(believed(&witness).len(), active);
        prop_assert_eq!(witness.head(), whole.head());
    }

    #[test]
    fn one_altered_byte_of_a_netmap_makes_nobody_a_member_and_gives_nobody_anything(
        at: prop::sample::Index,
        flip in 1..=255_u8,
    ) {
        let (mesh, honest) = Mesh::seen_by(Trust::Evidence, 3);
        let mut bytes = serde_json::to_vec(&mesh.netmap(None)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(netmap) = serde_json::from_slice::<Netmap>(&bytes) {
            let mut witness = newcomer(Trust::Evidence);
            witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
            if witness.handle_netmap(netmap, NOW).is_ok() {
                let honest = honest.view().unwrap();
                for member in believed(&witness) {
                    let true_one = &honest.members[&member.grant.node];
                    prop_assert_eq!(&member.grant, &true_one.grant);
                    prop_assert_eq!(&member.statements, &true_one.statements);
                    prop_assert_eq!(member.index, true_one.index);
                }
            }
        }
    }
}
