//! The policy bundle: drafts, signatures, and what a bundle does to nodes.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use carrick_lab::{in_lab, mesh::Mesh};
use serde_json::{Value, json};

use crate::{
    mesh::{assert_is_cut_off, assert_reaches, running},
    operator::{error, refs, succeeded, take_over},
    support::{carrick, wait_for},
};

const STRICT: &str = "sed -i s/\"available\"/\"strict\"/";

#[test]
fn a_draft_is_signed_without_a_coordinator_and_pushed_once() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let key = take_over(&mesh, "operator.key");
        let [draft, signed] = ["draft.json", "signed.json"].map(|name| path(&mesh, name));
        write_draft(&mesh, &draft, |draft| draft["default"]["lease"] = "strict".into());

        // What the operator has not signed is tried, and no more than that.
        let tried = mesh.json(&["bundle", "push", "-f", &draft, "--dry-run"]).unwrap();
        assert_eq!((&tried["version"], &tried["in_force"]), (&3.into(), &false.into()));
        assert!(tried["changes"].to_string().contains("default.lease"), "{tried}");
        let unsigned = error(&mesh.operate(&["bundle", "push", "-f", &draft, "--yes"]).unwrap());
        assert!(unsigned.contains("--key-file FILE, or sign a draft where it is"), "{unsigned}");

        let mut command = mesh.command();
        command.args(["bundle", "sign", "-f", &draft, "-o", &signed]).args(&key);
        succeeded(command.output().unwrap());
        let asked = error(&mesh.operate(&["bundle", "push", "-f", &signed]).unwrap());
        assert!(asked.contains("nothing was changed: give --yes"), "{asked}");
        assert_eq!(version(&mesh), 2);
        let pushed = mesh.json(&["bundle", "push", "-f", &signed, "--yes"]).unwrap();
        assert_eq!((&pushed["version"], &pushed["in_force"]), (&3.into(), &true.into()));
        let shown = mesh.json(&["bundle", "show"]).unwrap();
        assert_eq!(
            (&shown["bundle"]["version"], &shown["bundle"]["default"]["lease"]),
            (&3.into(), &"strict".into())
        );
        let again = error(&mesh.operate(&["bundle", "push", "-f", &signed, "--yes"]).unwrap());
        assert!(again.contains("version 3 is in force: give it version 4"), "{again}");
        let shown = succeeded(mesh.operate(&["bundle", "show"]).unwrap());
        assert!(shown.contains("(others)  join-token  strict"), "{shown}");
    });
}

#[test]
fn an_edit_signs_and_puts_what_the_editor_leaves() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let edit = |editor: &str, more: &[&str]| {
            let mut command = mesh.carrick();
            command.args(["bundle", "edit", "--yes"]).args(more).env("EDITOR", editor).env_remove("VISUAL");
            command.stdin(Stdio::null()).output().unwrap()
        };
        assert_eq!(error(&edit("true", &[])), "nothing was changed");
        let mut unasked = mesh.carrick();
        unasked.args(["bundle", "edit"]).env("EDITOR", STRICT).env_remove("VISUAL").stdin(Stdio::null());
        let unasked = error(&unasked.output().unwrap());
        assert_eq!(
            unasked,
            "nothing was changed: give --yes to put the bundle into force without being asked"
        );
        assert!(error(&edit("false", &[])).contains("set $EDITOR"));
        let broken = error(&edit("sed -i s/accept/accpet/", &[]));
        let kept = broken.rsplit_once("the draft is kept in ").map(|(_, path)| Path::new(path).to_owned());
        let kept = kept.unwrap_or_else(|| panic!("{broken}"));
        assert!(broken.contains("unknown field `accpet`") && kept.exists(), "{broken}");
        fs::remove_dir_all(kept.parent().unwrap()).unwrap();
        assert_eq!(version(&mesh), 1);
        let said = succeeded(edit(STRICT, &[]));
        assert!(
            said.contains("default.lease: \"available\" -> \"strict\"")
                && said.contains("version 2 is in force"),
            "{said}"
        );

        // And so it does with the operator's own key.
        let key = take_over(&mesh, "operator.key");
        assert!(error(&edit(STRICT, &[])).contains("--key-file FILE"));
        succeeded(edit("sed -i s/3600/1800/", &refs(&key)));
        assert_eq!(version(&mesh), 4);
    });
}

#[test]
fn a_passphrase_is_asked_for_without_showing_it() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let key = take_over(&mesh, "operator.key");
        let draft = path(&mesh, "draft.json");
        write_draft(&mesh, &draft, |_| ());
        let sign = |typed: &str| {
            let line = format!("{} bundle sign -f {draft} --key-file {}", carrick().display(), key[1]);
            let mut command = Command::new("script");
            command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().expect("install bsdutils: it has the program script");
            let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let (mut seen, mut byte) = (Vec::new(), [0]);
            // Whoever types before the prompt is echoed by the terminal.
            while !seen.ends_with(b"operator.key: ") && screen.read(&mut byte).unwrap() > 0 {
                seen.push(byte[0]);
            }
            keyboard.write_all(typed.as_bytes()).unwrap();
            screen.read_to_end(&mut seen).unwrap();
            (child.wait().unwrap().success(), String::from_utf8(seen).unwrap())
        };
        let (done, screen) = sign("correct hoarse\u{7f}\u{7f}\u{7f}\u{7f}rse battery\n");
        assert!(done && screen.contains("\"signature\"") && !screen.contains("battery"), "{screen}");
        let (done, screen) = sign("something else\n");
        assert!(!done && screen.contains("wrong passphrase") && !screen.contains("something"), "{screen}");
        let (done, screen) = sign("never mind\u{3}");
        assert!(!done && screen.contains("interrupted"), "{screen}");
    });
}

#[test]
fn a_bundle_that_cuts_a_node_off_says_so_first_and_a_better_one_brings_it_back() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let draft = path(&mesh, "draft.json");
        write_draft(&mesh, &draft, |draft| {
            let mut west = draft["default"].clone();
            west["runtime_digests"] = json!(["00".repeat(32)]);
            draft["clusters"] = json!({ "west": west });
        });
        let tried = mesh.json(&["bundle", "push", "-f", &draft, "--dry-run"]).unwrap();
        let suspends = tried["suspends"].as_array().unwrap();
        assert_eq!((suspends.len(), &suspends[0]["name"]), (1, &"west-1".into()), "{tried}");
        assert_eq!(detail(&mesh, "west-1")["node"]["state"], "active", "a dry run changes nothing");
        assert_reaches(&mesh.nodes[0], &mesh.nodes[1]);
        let pushed = succeeded(mesh.operate(&["bundle", "push", "-f", &draft, "--yes"]).unwrap());
        assert!(
            pushed.contains("1 node is suspended:\n  west-1 of cluster west: evidence identity"),
            "{pushed}"
        );
        assert_is_cut_off(&mesh.nodes[0], &mesh.nodes[1]);

        // Whoever asks is told why, claim by claim.
        let page = succeeded(mesh.operate(&["nodes", "west-1"]).unwrap());
        assert!(page.contains("Suspended  evidence identity: runtime digest"), "{page}");
        assert!(
            page.lines().any(|line| line.contains("refused") && line.contains("runtime digest")),
            "{page}"
        );
        let table = succeeded(mesh.operate(&["nodes"]).unwrap());
        assert!(table.lines().any(|line| line.starts_with("west-1") && line.contains("refused")), "{table}");
        let attested = mesh.operate(&["attest", "west-1"]).unwrap();
        assert!(
            String::from_utf8_lossy(&attested.stdout).contains("new evidence is refused"),
            "{attested:?}"
        );
        assert!(error(&attested).contains("the evidence of west-1 is refused: evidence identity"));
        let accepted = succeeded(mesh.operate(&["attest", "east-1"]).unwrap());
        assert!(
            accepted.contains("new evidence is accepted") && accepted.contains("it signed this session"),
            "{accepted}"
        );

        // A bundle that its evidence is good for lets it in again.
        write_draft(&mesh, &draft, |draft| draft["clusters"] = json!({}));
        mesh.json(&["bundle", "push", "-f", &draft, "--yes"]).unwrap();
        wait_for("west-1 to be active again", || {
            (detail(&mesh, "west-1")["node"]["state"] == "active").then_some(())
        });
        assert_reaches(&mesh.nodes[0], &mesh.nodes[1]);
    });
}

#[test]
fn a_node_that_was_refused_is_known_by_its_name() {
    in_lab(|lab| {
        let mut mesh = running(lab, &[("east", 1), ("west", 1)]);
        let token = mesh.json(&["token", "create", "--cluster", "west"]).unwrap();
        succeeded(mesh.operate(&["token", "revoke", token["id"].as_str().unwrap()]).unwrap());
        mesh.nodes[1].name = "stranger".to_owned();
        mesh.nodes[1].state_dir = mesh.directory().join("stranger");
        drop(mesh.nodes[1].process.take());
        mesh.start_node(1, token["token"].as_str()).unwrap();
        wait_for("the refusal", || detail(&mesh, "stranger")["refusals"].get(0).cloned());
        let page = succeeded(mesh.operate(&["nodes", "stranger"]).unwrap());
        assert!(page.starts_with("Refused ") && page.contains("the join token was revoked"), "{page}");
        let nobody = error(&mesh.operate(&["nodes", "nobody"]).unwrap());
        assert!(nobody.contains("there is no node nobody, and none of that name was refused"), "{nobody}");
        let nothing = error(&mesh.operate(&["bundle", "learn", "east-1"]).unwrap());
        assert!(nothing.contains("shows nothing that could be learnt (join-token)"), "{nothing}");
    });
}

/// Writes what follows the bundle in force, after a change.
pub(crate) fn write_draft(mesh: &Mesh, file: &str, change: impl FnOnce(&mut Value)) {
    let draft = succeeded(mesh.operate(&["bundle", "show", "-o", "draft"]).unwrap());
    let mut draft: Value = serde_json::from_str(&draft).unwrap();
    change(&mut draft);
    fs::write(file, draft.to_string()).unwrap();
}

fn version(mesh: &Mesh) -> u64 {
    mesh.json(&["bundle", "show"]).unwrap()["bundle"]["version"].as_u64().unwrap()
}

/// What `carrick nodes NAME` says; nothing where nobody of that name is known yet.
fn detail(mesh: &Mesh, name: &str) -> Value {
    mesh.json(&["nodes", name]).unwrap_or_default()
}

fn path(mesh: &Mesh, name: &str) -> String {
    mesh.directory().join(name).to_str().unwrap().to_owned()
}
