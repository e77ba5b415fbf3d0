//! The operator's key: how it leaves the coordinator, and what holds then.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use carrick_lab::{in_lab, mesh::Mesh};
use serde_json::{Value, json};

use crate::{
    bundle::write_draft,
    mesh::assert_reaches,
    support::{PATIENCE, carrick, traffic::Traffic},
};

const PASSPHRASE: &str = "correct horse battery";

#[test]
fn the_operators_key_leaves_the_coordinator_and_traffic_notices_nothing() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[("east", 2), ("west", 2)]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let (east, west) = (mesh.token("east", 2).unwrap(), mesh.token("west", 1).unwrap());
        for (index, token) in [(0, &east), (2, &west)] {
            mesh.start_node(index, Some(token)).unwrap();
            mesh.wait_for_node(index).unwrap();
        }
        mesh.settle().unwrap();
        let traffic = Traffic::between(&mesh.nodes[0], &mesh.nodes[2]);
        assert!(mesh.data_dir().join("operator.key").exists());
        let key = take_over(&mesh, "operator.key");
        traffic.assert_goes_on_for(Duration::from_secs(2));
        traffic.assert_unbroken();
        assert!(!mesh.data_dir().join("operator.key").exists(), "the coordinator's own key is removed");
        let shown = mesh.json(&["operator", "show", "--key-file", &key[1]]).unwrap();
        assert_eq!((&shown["operator_key_held"], &shown["policy_version"]), (&false.into(), &2.into()));
        assert_eq!(shown["key_file"], key[1].as_str());

        // A token takes the key from now on, and the ones that were made before still hold.
        let without = error(&mesh.operate(&["token", "create", "--cluster", "west"]).unwrap());
        assert!(
            without.contains("does not hold the operator's key") && without.contains("--key-file"),
            "{without}"
        );
        let made = mesh.json(&[&["token", "create", "--cluster", "west"], &refs(&key)[..]].concat()).unwrap();
        mesh.start_node(1, Some(&east)).unwrap();
        mesh.start_node(3, made["token"].as_str()).unwrap();
        for index in [1, 3] {
            mesh.wait_for_node(index).unwrap();
        }
        mesh.settle().unwrap();
        assert_reaches(&mesh.nodes[1], &mesh.nodes[3]);
        assert_reaches(&mesh.nodes[3], &mesh.nodes[0]);
        traffic.assert_unbroken();
        // The key is on another host now, and nobody here knows whom to believe but by the coordinator's word.
        let unknown = error(&mesh.operate(&["log", "verify"]).unwrap());
        assert!(unknown.contains("give the operator's public key with --operator KEY"), "{unknown}");
        mesh.json(&["log", "verify", "--operator", shown["operator"].as_str().unwrap()]).unwrap();

        // And so it is after a restart.
        mesh.coordinator.take().unwrap().terminate(PATIENCE).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        assert_eq!(mesh.json(&["operator", "show"]).unwrap()["operator_key_held"], false);
        mesh.json(&[&["token", "create", "--cluster", "west"], &refs(&key)[..]].concat()).unwrap();
        traffic.assert_unbroken();
    });
}

#[test]
fn an_init_that_was_interrupted_goes_on_with_the_key_that_is_there() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let key = key(&mesh, "operator.key");
        let init = [&["operator", "init"], &refs(&key)[..]].concat();
        // Whoever may only read makes no key.
        let mut command = mesh.carrick();
        command.env("CARRICK_CREDENTIAL", mesh.data_dir().join("viewer.credential")).args(&init);
        let refused = error(&command.output().unwrap());
        assert!(refused.contains("may only read") && !Path::new(&key[1]).exists(), "{refused}");

        // The key is made, and the disk takes no bundle of it.
        let database = rusqlite::Connection::open(mesh.data_dir().join("carrick.db")).unwrap();
        let full = "CREATE TRIGGER full BEFORE INSERT ON bundles BEGIN SELECT RAISE(ABORT, 'full'); END";
        database.execute_batch(full).unwrap();
        let interrupted = error(&mesh.operate(&init).unwrap());
        assert!(
            interrupted.contains("the mesh is not taken over: run `carrick operator init --key-file"),
            "{interrupted}"
        );
        database.execute_batch("DROP TRIGGER full").unwrap();
        let made = fs::read(&key[1]).unwrap();
        let before = mesh.json(&["operator", "show"]).unwrap();
        assert_eq!((&before["operator_key_held"], &before["policy_version"]), (&true.into(), &1.into()));
        let wrong = error(&mesh.operate(&["operator", "show", "--key-file", &key[1]]).unwrap());
        assert!(wrong.contains("give the file with that key"), "{wrong}");
        let nothing = error(&mesh.operate(&["operator", "show", "--key-file", "/nowhere"]).unwrap());
        assert!(nothing.contains("/nowhere is not there"), "{nothing}");

        // With another passphrase nothing is done; with the right one it goes on.
        let wrong = mesh.directory().join("wrong");
        fs::write(&wrong, "incorrect horse").unwrap();
        fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
        let refused =
            ["operator", "init", "--key-file", &key[1], "--passphrase-file", wrong.to_str().unwrap()];
        let open = error(&mesh.operate(&refused).unwrap());
        assert!(open.ends_with(&format!("chmod 600 {}", wrong.display())), "{open}");
        write_secret(&wrong, "incorrect horse");
        let refused = error(&mesh.operate(&refused).unwrap());
        assert!(refused.contains("wrong passphrase") && !refused.contains("incorrect horse"), "{refused}");
        succeeded(mesh.operate(&init).unwrap());
        assert_eq!(fs::read(&key[1]).unwrap(), made, "the same key");
        let again = succeeded(mesh.operate(&init).unwrap());
        assert!(again.contains("is this mesh's operator already"), "{again}");
        assert_eq!(mesh.json(&["operator", "show"]).unwrap()["policy_version"], 2, "once");
    });
}

#[test]
fn a_key_that_is_printed_once_signs_from_stdin_and_hands_over_to_another() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let old = mesh.token("east", 1).unwrap();
        let output = mesh.operate(&["operator", "init", "--print"]).unwrap();
        let printed = succeeded(output);
        assert!(printed.starts_with("carrick_operator_1_") && printed.lines().count() == 1);
        let create = ["token", "create", "--cluster", "east", "--key-file", "-", "-o", "json"];
        let mut child = mesh.carrick();
        let mut child = child.args(create).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
        let output = succeeded(child.wait_with_output().unwrap());
        let created: Value = serde_json::from_str(&output).unwrap();
        assert!(created["token"].as_str().unwrap().starts_with("carrick_join_1_"));

        // Another key follows only by the word of this one.
        let next = key(&mesh, "next.key");
        let init = [&["operator", "init"], &refs(&next)[..]].concat();
        let alone = error(&mesh.operate(&init).unwrap());
        assert!(alone.contains("--former-key-file"), "{alone}");
        assert!(!Path::new(&next[1]).exists(), "no key is made that cannot follow");
        let former = mesh.directory().join("former");
        write_secret(&former, &printed);
        succeeded(
            mesh.operate(&[&init[..], &["--former-key-file", former.to_str().unwrap()]].concat()).unwrap(),
        );
        let shown = mesh.json(&["operator", "show"]).unwrap();
        assert_eq!(shown["former_operators"].as_array().unwrap().len(), 2);
        let retired = ["token", "create", "--cluster", "east", "--key-file", former.to_str().unwrap()];
        let retired = error(&mesh.operate(&retired).unwrap());
        assert!(retired.contains("give the file with that key"), "{retired}");
        // What the former operators signed stays true once none of it holds any more.
        let [draft, copy] = ["draft.json", "mesh.log"].map(|name| mesh.directory().join(name));
        let [draft, copy] = [&draft, &copy].map(|path| path.to_str().unwrap());
        write_draft(&mesh, draft, |draft| draft["former_operators"] = json!([]));
        let push = [&["bundle", "push", "-f", draft, "--yes"], &refs(&next)[..]].concat();
        succeeded(mesh.operate(&push).unwrap());
        let operator = shown["operator"].as_str().unwrap();
        let verified = mesh.json(&["log", "verify", "--operator", operator]).unwrap();
        assert_eq!(verified["policy_version"], 4);

        // And so it is on a host that has the copy, and neither a network nor a memory.
        succeeded(mesh.operate(&["log", "export", "-o", copy]).unwrap());
        let offline = |more: &[&str]| {
            let mut command = Command::new(carrick());
            command.env_clear().env("HOME", mesh.directory().join("elsewhere"));
            command.args(["log", "verify", "--file", copy]).args(more).output().unwrap()
        };
        assert!(error(&offline(&[])).contains("--operator KEY"));
        let said = succeeded(offline(&["--operator", operator]));
        assert!(said.contains(&format!("operator {operator}")), "{said}");
        let whole = fs::read_to_string(copy).unwrap();
        fs::write(copy, whole.replacen("token-created", "token-create", 1)).unwrap();
        assert_ne!(fs::read_to_string(copy).unwrap(), whole);
        assert!(error(&offline(&["--operator", operator])).contains("the log was altered"));
        // Nobody's log has a secret in it.
        let log = mesh.coordinator.as_ref().unwrap().output();
        for secret in ["carrick_operator_1_", "carrick_join_1_", PASSPHRASE, old.as_str()] {
            assert!(!log.contains(secret), "{log}");
        }
    });
}

/// Takes the mesh over with a new key: how to name its file and its passphrase's.
pub(crate) fn take_over(mesh: &Mesh, name: &str) -> Vec<String> {
    let key = key(mesh, name);
    let output = mesh.operate(&[&["operator", "init"], &refs(&key)[..]].concat()).unwrap();
    let said = succeeded(output);
    assert!(said.contains("The coordinator's own key signs nothing any more and is removed"), "{said}");
    key
}

/// The arguments that name a key's file, which need not be there, and the one with its passphrase, which is.
fn key(mesh: &Mesh, name: &str) -> Vec<String> {
    let passphrase = mesh.directory().join("passphrase");
    write_secret(&passphrase, &format!("{PASSPHRASE}\n"));
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let file = text(mesh.directory().join(name));
    vec!["--key-file".to_owned(), file, "--passphrase-file".to_owned(), text(passphrase)]
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn refs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// What a verb that succeeded printed.
pub(crate) fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line in which a verb that failed says why.
pub(crate) fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    let line = stderr.lines().last().and_then(|line| line.strip_prefix("carrick: error: "));
    line.unwrap_or_else(|| panic!("{stderr}")).to_owned()
}
