//! What the tests of a whole mesh have in common.

pub(crate) mod guest;
#[allow(dead_code, reason = "each test program uses its part")]
pub(crate) mod operator;
#[allow(dead_code, reason = "each test program uses its part")]
pub(crate) mod traffic;

use std::{path::Path, time::Duration};

use carrick_lab::{Process, eventually, mesh::Mesh};
use serde_json::Value;

/// More than anything here may take, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test.
pub(crate) fn carrick() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_carrick"))
}

/// What the coordinator says of a node.
pub(crate) fn node_of(mesh: &Mesh, name: &str) -> Value {
    let nodes = mesh.json(&["nodes"]).unwrap();
    let found =
        nodes.as_array().unwrap().iter().find(|node| node["name"] == name && node["state"] == "active");
    found.unwrap_or_else(|| panic!("no active {name} in {nodes}")).clone()
}

/// The one line in which a process that has failed says why, without what every error begins with.
pub(crate) fn error_of(process: &Process) -> String {
    let status = process.wait(PATIENCE).unwrap();
    let output = process.output();
    assert_eq!(status.code(), Some(1), "{output}");
    let stderr = process.stderr();
    assert_eq!(stderr.matches("carrick: error: ").count(), 1, "{output}");
    let last = stderr.lines().last().unwrap_or_default();
    last.strip_prefix("carrick: error: ")
        .unwrap_or_else(|| panic!("the last line is no error: {output}"))
        .to_owned()
}

/// Waits until `look` gives something, and says what was waited for when it does not.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually(PATIENCE, what, look).unwrap()
}
