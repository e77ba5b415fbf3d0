//! Whether a policy bundle may come into force, and whom it would cut off.

use std::{collections::BTreeMap, sync::Arc};

use carrick_attest::{
    Bundle, Evidence, Signed, SignedBundle, TrustedBundle, appraise,
    policy::{BundleError, Succession},
};
use carrick_types::{CoordinatorKey, OperatorKey, OperatorPin, OperatorSecret, UnixTime};

use crate::{
    mesh::PublishError,
    netmap,
    state::{MeshState, NodeRecord, PublishedBundle},
};

/// How much higher the version of the next bundle may be: a slip of the finger must not use up all that there are.
const MAX_LEAP: u64 = 1_000_000;

/// The bundle that would be in force, with every succession that ever led to its operator.
///
/// # Errors
/// [`PublishError`], where it may not follow the one that is in force.
pub(crate) fn follow(
    state: &MeshState,
    signed: SignedBundle,
    coordinator: CoordinatorKey,
    now: UnixTime,
) -> Result<PublishedBundle, PublishError> {
    let before = state.bundle.trusted.operator();
    let trusted = signed.open(&OperatorPin::of(&before), &state.mesh)?;
    check_succession(state, trusted.get(), coordinator, now)?;
    let known = &state.bundle.signed.successions;
    if trusted.operator() == before {
        let signed = SignedBundle { successions: known.clone(), ..signed };
        return Ok(PublishedBundle { signed, trusted });
    }
    // Nodes remember who was taken out: a word of before does not make one of them the operator again.
    let named = state.bundle.trusted.operators().contains(&trusted.operator());
    if !named && was_operator(known, &trusted.operator()) {
        return Err(BundleError::Stranger(trusted.operator()).into());
    }
    // Whoever believes a former operator is led to this one by every step that there ever was, one that was taken before included:
    // operators may take turns.
    let new = signed.successions.strip_prefix(known.as_slice()).unwrap_or(&signed.successions);
    let signed = SignedBundle { successions: [known.as_slice(), new].concat(), ..signed };
    signed.open(&OperatorPin::of(&signed.first_operator()), &state.mesh)?;
    Ok(PublishedBundle { signed, trusted })
}

/// Whether some step led to this operator, or away from it.
fn was_operator(successions: &[Signed<Succession>], operator: &OperatorKey) -> bool {
    let steps = successions.iter().filter_map(|step| serde_json::from_str::<Succession>(step.text()).ok());
    steps.into_iter().any(|step| step.from == *operator || step.to == *operator)
}

/// A draft as if its operator had signed it: only to tell what it would do.
///
/// # Errors
/// As [`follow`].
pub(crate) fn rehearse(
    state: &MeshState,
    mut draft: Bundle,
    coordinator: CoordinatorKey,
    now: UnixTime,
) -> Result<TrustedBundle, PublishError> {
    check_succession(state, &draft, coordinator, now)?;
    draft.check()?;
    // A signature of nobody, which leaves this function only as proof that there is one. Tokens of the real operator hold.
    let nobody = OperatorSecret::from_bytes([1; 32]);
    draft.former_operators.push(state.bundle.trusted.operator());
    if draft.check().is_err() {
        // One more than may be named. One of them stands for nobody here.
        let stands = |former: &OperatorKey| {
            state.members().flat_map(|node| node.statements()).any(|statement| {
                matches!(&statement.evidence, Evidence::JoinToken(token) if token.capability.open(former).is_ok())
            })
        };
        if let Some(position) = draft.former_operators.iter().position(|former| !stands(former)) {
            draft.former_operators.remove(position);
        }
    }
    let bundle = Signed::seal(&draft, &nobody);
    let signed = SignedBundle { operator: nobody.public(), successions: vec![], bundle };
    Ok(signed.open(&OperatorPin::of(&nobody.public()), &state.mesh)?)
}

/// What the evidence of each active node is worth under a bundle: by the position of its grant, why it is not enough, where it is not.
#[derive(Debug, Default)]
pub(crate) struct Judged(BTreeMap<u64, Option<String>>);

impl Judged {
    pub(crate) fn of(state: &MeshState, bundle: &TrustedBundle, now: UnixTime) -> Self {
        Self(state.active().map(|node| (node.logged.position, judge(state, node, bundle, now))).collect())
    }
}

/// The active nodes whose evidence is not enough under a bundle, and why. Those that were judged under it before are not judged again:
/// whatever is appraised is in a grant, which has a place in the log.
pub(crate) fn cut_off(
    state: &MeshState,
    bundle: &TrustedBundle,
    judged: &Judged,
    now: UnixTime,
) -> Vec<(Arc<NodeRecord>, String)> {
    let refused = state.active().filter_map(|node| {
        let known = judged.0.get(&node.logged.position).cloned();
        Some((node.clone(), known.unwrap_or_else(|| judge(state, node, bundle, now))?))
    });
    refused.collect()
}

/// Why the evidence of a node is not enough under a bundle; `None` where it is.
fn judge(state: &MeshState, node: &NodeRecord, bundle: &TrustedBundle, now: UnixTime) -> Option<String> {
    Some(appraise(&node.subject(state.mesh), node.statements(), bundle, now).err()?.why)
}

fn check_succession(
    state: &MeshState,
    bundle: &Bundle,
    coordinator: CoordinatorKey,
    now: UnixTime,
) -> Result<(), PublishError> {
    if bundle.mesh != state.mesh {
        return Err(BundleError::OtherMesh(bundle.mesh).into());
    }
    let (found, seen) = (bundle.version, state.policy().version);
    if found <= seen {
        return Err(BundleError::Older { found, seen }.into());
    }
    if found > seen.saturating_add(MAX_LEAP) {
        return Err(BundleError::Senseless(format!(
            "it has version {found}, and version {seen} is in force: versions rise by {MAX_LEAP} at the most, so that there are always more"
        ))
        .into());
    }
    if now >= bundle.expires_at {
        return Err(BundleError::Expired(bundle.expires_at).into());
    }
    // It names the log: nodes would take one that is named otherwise for another.
    let set_back = bundle.log_restart.filter(|_| bundle.log_restart != state.policy().log_restart);
    if let Some(head) = set_back.filter(|head| !netmap::is_of_this_log(state, *head)) {
        let why = format!(
            "its `log_restart` is no head of this log, so that every node would refuse it: the log has {} entries, and no such head after {}",
            state.log.head.size, head.size
        );
        return Err(BundleError::Senseless(why).into());
    }
    if bundle.log_restart.is_none() && state.policy().log_restart.is_some() {
        let why = "it leaves out `log_restart`, which stays as it is until the log is set back again";
        return Err(BundleError::Senseless(why.to_owned()).into());
    }
    if bundle.coordinator_key != coordinator {
        return Err(PublishError::OtherCoordinator(coordinator));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use carrick_attest::{Bytes, policy::LogHead};

    use super::*;
    use crate::state::{
        LogState,
        tests::{bundle, empty, node, operator, signed, signing_key},
    };

    const NOW: UnixTime = UnixTime::from_millis(1000);

    #[test]
    fn a_rehearsed_draft_obeys_the_rules_of_a_signed_one() {
        let rehearse = |draft| rehearse(&empty(), draft, signing_key().public(), NOW);
        let second = Bundle { version: 2, ..bundle() };
        assert_eq!(rehearse(second.clone()).unwrap().get().version, 2);
        let why = |draft| rehearse(draft).unwrap_err().to_string();
        assert!(why(bundle()).contains("versions only rise"));
        assert!(why(Bundle { expires_at: NOW, ..second.clone() }).contains("expired"));
        // As many as may be named.
        let former = (0..32).map(|n| OperatorSecret::from_bytes([n; 32]).public()).collect();
        rehearse(Bundle { former_operators: former, ..second.clone() }).unwrap();
        let mut senseless = second;
        senseless.default.accept.clear();
        assert!(why(senseless).contains("no evidence"));
    }

    #[test]
    fn operators_that_take_turns_are_believed_by_those_who_know_the_first() {
        let (first, second) = (operator(), OperatorSecret::from_bytes([9; 32]));
        let mut state = empty();
        let mut offered = Vec::new();
        for (version, from, to) in [(2, &first, &second), (3, &second, &first), (4, &first, &second)] {
            let step = Succession { mesh: state.mesh, from: from.public(), to: to.public() };
            offered.push(Signed::seal(&step, from));
            let next = Bundle { version, former_operators: vec![from.public()], ..bundle() };
            let signed = SignedBundle {
                operator: to.public(),
                successions: offered.clone(),
                bundle: Signed::seal(&next, to),
            };
            let published = follow(&state, signed, signing_key().public(), NOW).unwrap();
            for operator in [&first, &second] {
                published.signed.open(&OperatorPin::of(&operator.public()), &state.mesh).unwrap();
            }
            state.bundle = Arc::new(published);
        }
    }

    #[test]
    fn an_operator_who_was_taken_out_comes_back_once_it_is_named_again() {
        let (first, second) = (operator(), OperatorSecret::from_bytes([9; 32]));
        let mut state = empty();
        let step = |from: &OperatorSecret, to: &OperatorSecret| {
            let step = Succession { mesh: empty().mesh, from: from.public(), to: to.public() };
            Signed::seal(&step, from)
        };
        let mut steps = Vec::new();
        let mut offer = |version, by: &OperatorSecret, from: Option<&OperatorSecret>, names: bool| {
            steps.extend(from.map(|from| step(from, by)));
            let former =
                [&first, &second].into_iter().filter(|former| names && former.public() != by.public());
            let former_operators = former.map(OperatorSecret::public).collect();
            let bundle = Signed::seal(&Bundle { version, former_operators, ..bundle() }, by);
            let signed = SignedBundle { operator: by.public(), successions: steps.clone(), bundle };
            let followed =
                follow(&state, signed, signing_key().public(), NOW).map_err(|error| error.to_string());
            if let Ok(published) = followed {
                state.bundle = Arc::new(published);
                return Ok(());
            }
            followed.map(|_| ())
        };
        offer(2, &second, Some(&first), true).unwrap();
        offer(3, &first, Some(&second), true).unwrap();
        offer(4, &second, Some(&first), false).unwrap();
        // The words of the earlier turns are in everybody's hands, and the key of the one who was taken out may be in somebody's.
        assert!(offer(5, &first, None, true).unwrap_err().contains("not this mesh's operator"));
        offer(5, &second, None, true).unwrap();
        offer(6, &first, Some(&second), true).unwrap();
    }

    #[test]
    fn a_step_that_leads_nowhere_is_refused_or_left_out() {
        let (first, second) = (operator(), OperatorSecret::from_bytes([9; 32]));
        let step = |from: &OperatorSecret, to: &OperatorSecret| {
            let step = Succession { mesh: empty().mesh, from: from.public(), to: to.public() };
            Signed::seal(&step, from)
        };
        let stray = step(&OperatorSecret::from_bytes([7; 32]), &OperatorSecret::from_bytes([8; 32]));
        let offer = |by: &OperatorSecret, successions| {
            let bundle = Signed::seal(&Bundle { version: 2, ..bundle() }, by);
            let signed = SignedBundle { operator: by.public(), successions, bundle };
            follow(&empty(), signed, signing_key().public(), NOW)
        };
        assert_eq!(offer(&first, vec![stray.clone()]).unwrap().signed.successions, []);
        offer(&second, vec![stray, step(&first, &second)]).unwrap_err();
    }

    #[test]
    fn a_version_leaves_room_for_those_that_follow() {
        let offer = |version| {
            let signed = signed(&Bundle { version, ..bundle() });
            follow(&empty(), signed, signing_key().public(), NOW).map(|_| ())
        };
        offer(1 + MAX_LEAP).unwrap();
        for version in [2 + MAX_LEAP, u64::MAX] {
            assert!(offer(version).unwrap_err().to_string().contains("version"), "{version}");
        }
    }

    #[test]
    fn a_log_that_was_set_back_is_named_so_from_then_on() {
        let offer = |state: &MeshState, bundle: &Bundle| {
            follow(state, signed(bundle), signing_key().public(), NOW).map_err(|error| error.to_string())
        };
        let before = empty();
        (1..=2_u8).for_each(|n| before.log.tree.write().push([n; 32]));
        let head = |size| {
            let head = before.log.tree.read().head(size).unwrap();
            Some(LogHead { size, head: Bytes(head) })
        };
        let before = MeshState { log: LogState { head: head(2).unwrap(), ..before.log.clone() }, ..before };
        let second = Bundle { version: 2, log_restart: head(1), ..bundle() };
        let state = MeshState { bundle: Arc::new(offer(&before, &second).unwrap()), ..before.clone() };
        let third = Bundle { version: 3, ..second };
        offer(&state, &third).unwrap();
        let again = head(2);
        offer(&state, &Bundle { log_restart: again, ..third.clone() }).unwrap();
        let dropped = offer(&state, &Bundle { log_restart: None, ..third });
        assert!(dropped.unwrap_err().contains("log_restart"));
    }

    #[test]
    fn a_log_is_set_back_to_a_head_that_it_has() {
        let offer = |size, head| {
            let log_restart = Some(LogHead { size, head: Bytes(head) });
            let second = Bundle { version: 2, log_restart, ..bundle() };
            follow(&empty(), signed(&second), signing_key().public(), NOW).map(drop)
        };
        let empty = carrick_wire::log::tree::empty_head();
        offer(0, empty).unwrap();
        for (size, head) in [(0, [1; 32]), (1, empty), (u64::MAX, [1; 32])] {
            assert!(offer(size, head).unwrap_err().to_string().contains("no head of this log"), "{size}");
        }
    }

    #[test]
    fn whoever_shows_too_little_is_named_with_the_reason_and_nothing_happens_to_it() {
        let state = empty().with(node(1, 1));
        let draft = Bundle { version: 2, ..bundle() };
        let trusted = rehearse(&state, draft, signing_key().public(), NOW).unwrap();
        let cut_off = cut_off(&state, &trusted, &Judged::default(), NOW);
        assert_eq!(cut_off.len(), 1, "the fixture's node shows nothing at all");
        assert_eq!(cut_off[0].0.name.as_str(), "n1");
        assert!(cut_off[0].1.contains("identity key"), "{}", cut_off[0].1);
        assert!(state.active().count() == 1);
    }

    #[test]
    fn whoever_was_judged_before_is_not_judged_again_unless_it_has_another_grant() {
        let state = empty().with(node(1, 1));
        let draft = Bundle { version: 2, ..bundle() };
        let trusted = rehearse(&state, draft, signing_key().public(), NOW).unwrap();
        let judged = Judged::of(&state, &trusted, NOW);
        assert!(judged.0[&0].as_ref().unwrap().contains("identity key"));
        let said = Judged(BTreeMap::from([(0, None)]));
        assert!(cut_off(&state, &trusted, &said, NOW).is_empty());
        let mut renewed = node(1, 2);
        renewed.logged.position = 1;
        assert_eq!(cut_off(&state.with(renewed), &trusted, &said, NOW).len(), 1);
    }
}
