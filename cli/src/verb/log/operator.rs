//! Whom to believe about a log: the operator of whom this host knows without asking the coordinator.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use carrick_attest::SignedBundle;
use carrick_types::{MeshId, OperatorPin, OperatorSecret};
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    operator_key,
    remote::{Remote, SYSTEM_DATA_DIR},
    verb::node::SYSTEM_STATE_DIR,
};

/// The operator of whom this host knows by itself, who signed the last bundle or was followed by whoever did.
pub(super) fn of_this_host(mesh: MeshId, last: &SignedBundle, remote: &Remote) -> Result<OperatorPin> {
    let coordinators = [remote.credential_dir(), Some(PathBuf::from(SYSTEM_DATA_DIR))];
    let coordinators = coordinators.into_iter().flatten().filter_map(|directory| of_coordinator(&directory));
    let own = operator_key::default_path().and_then(|path| own(&path));
    let node = of_node(Path::new(SYSTEM_STATE_DIR), mesh);
    let mut known = own.into_iter().chain(coordinators).chain(node);
    // There may be keys for several meshes here.
    match known.find(|pin| last.open(pin, &mesh).is_ok()) {
        Some(pin) => Ok(pin),
        None => bail!(
            "this host knows no operator of mesh {mesh}: give the operator's public key with --operator KEY, as `carrick operator show` prints it where the operator works"
        ),
    }
}

/// A file that is not there, or is none of this user's business, says nothing.
fn own(path: &Path) -> Option<OperatorPin> {
    operator_key::public_key(path).ok().flatten().map(|key| OperatorPin::of(&key))
}

/// The operator whose key a coordinator of this host holds.
fn of_coordinator(data_dir: &Path) -> Option<OperatorPin> {
    let bytes = Zeroizing::new(fs::read(data_dir.join("operator.key")).ok()?);
    let secret = OperatorSecret::from_bytes(bytes.as_slice().try_into().ok()?);
    Some(OperatorPin::of(&secret.public()))
}

/// Whom a node of this host believes, where it is one of the mesh.
fn of_node(state_dir: &Path, mesh: MeshId) -> Option<OperatorPin> {
    #[derive(Deserialize)]
    struct Membership {
        mesh: MeshId,
    }
    #[derive(Deserialize)]
    struct Memory {
        operator: OperatorPin,
    }
    let membership: Membership = read(&state_dir.join("node.json"))?;
    let memory: Memory = read(&state_dir.join("trust.json"))?;
    (membership.mesh == mesh).then_some(memory.operator)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_another_mesh_says_nothing() {
        let directory = std::env::temp_dir().join(format!("carrick-log-operator-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (mesh, pin) = (MeshId::from_bytes([1; 16]), crate::fixture::operator().public());
        let pin = OperatorPin::of(&pin);
        fs::write(directory.join("node.json"), serde_json::json!({"mesh": mesh, "name": "a"}).to_string())
            .unwrap();
        assert_eq!(of_node(&directory, mesh), None, "before it was let in");
        fs::write(
            directory.join("trust.json"),
            serde_json::json!({"operator": pin, "bundle_version": 1}).to_string(),
        )
        .unwrap();
        assert_eq!(of_node(&directory, mesh), Some(pin));
        assert_eq!(of_node(&directory, MeshId::from_bytes([2; 16])), None);
        fs::remove_dir_all(&directory).unwrap();
    }
}
