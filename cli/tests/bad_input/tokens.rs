//! Join tokens that are good for nothing.

use carrick_lab::in_lab;
use carrick_types::{JoinToken, MeshId};

use crate::{
    bystanders::{Bystanders, NEWCOMER},
    support::{PATIENCE, carrick, error_of, wait_for},
};

#[test]
fn a_truncated_token_is_refused() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let error = net.refused(Some(&token[..token.len() - 7]), &[]);
        assert_eq!(error, "the join token is truncated or altered: copy it again, whole");
        net.assert_unharmed();
    });
}

#[test]
fn an_altered_token_is_refused() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let mut altered = token.clone().into_bytes();
        let middle = altered.len() / 2;
        altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
        let error = net.refused(Some(&String::from_utf8(altered).unwrap()), &[]);
        assert_eq!(error, "the join token is truncated or altered: copy it again, whole");
        // With a checksum that fits, it is the coordinator that sees it.
        let mut seed = *token.parse::<JoinToken>().unwrap().seed.expose();
        seed[0] ^= 1;
        let forged = JoinToken { seed: carrick_types::TokenSeed::from_bytes(seed), ..token.parse().unwrap() };
        let error = net.refused(Some(&forged.to_string()), &[]);
        assert!(
            error.contains("is not the one that was made under this id: copy it again, whole"),
            "{error}"
        );
        assert_eq!(used(&net, &forged), 0);
        net.assert_unharmed();
    });
}

#[test]
fn an_expired_token_is_refused() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let created = net.mesh.json(&["token", "create", "--cluster", "east", "--ttl", "1s"]).unwrap();
        let token = created["token"].as_str().unwrap();
        wait_for("the token to expire", || {
            let listed = net.mesh.json(&["token", "list"]).unwrap();
            listed.as_array().unwrap().iter().any(|token| token["state"] == "expired").then_some(())
        });
        let error = net.refused(Some(token), &[]);
        assert!(error.starts_with("the join token expired at 2"), "{error}");
        assert!(error.ends_with("make a new one with `carrick token create --cluster east`"), "{error}");
        net.assert_unharmed();
    });
}

#[test]
fn a_used_up_token_is_refused() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        net.mesh.start_node(NEWCOMER, Some(&token)).unwrap();
        net.mesh.settle().unwrap();
        let mut command = net.mesh.command();
        command.args(["node", "--name", "late", "--token", &token]);
        command.arg("--state-dir").arg(net.mesh.directory().join("late"));
        let error = error_of(&net.mesh.internet.spawn("late", command).unwrap());
        let expected =
            "the join token is used up (1 of 1): make a new one with `carrick token create --cluster east`";
        assert_eq!(error, expected);
        net.assert_unharmed();
    });
}

#[test]
fn a_revoked_token_is_refused() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let id = token.parse::<JoinToken>().unwrap().id.to_string();
        assert!(net.mesh.operate(&["token", "revoke", &id]).unwrap().status.success());
        let error = net.refused(Some(&token), &[]);
        assert_eq!(
            error,
            "the join token was revoked: make a new one with `carrick token create --cluster east`"
        );
        net.assert_unharmed();
    });
}

#[test]
fn a_token_of_another_mesh_is_refused() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let host = lab.host("other").unwrap();
        lab.attach(&host, &net.mesh.switches[1], "eth0", &["198.51.100.200/24"]).unwrap();
        let data_dir = net.mesh.directory().join("other");
        let mut command = net.mesh.command();
        command.arg("coordinator").arg("--data-dir").arg(&data_dir);
        let other = host.spawn("other coordinator", command).unwrap();
        other.wait_for_line("carrick token create", PATIENCE).unwrap();
        let mut command = host.command(carrick());
        command.args([
            "token",
            "create",
            "--cluster",
            "east",
            "--coordinator",
            "https://198.51.100.200:8443",
        ]);
        let created = command.arg("--credential").arg(data_dir.join("admin.credential")).output().unwrap();
        let foreign = String::from_utf8(created.stdout).unwrap().trim().to_owned();

        // A member does not change its mesh without being told to.
        net.assert_newcomer_is_welcome();
        net.mesh.nodes[NEWCOMER].process.take().unwrap().terminate(PATIENCE).unwrap();
        let error = net.refused(Some(&foreign), &[]);
        assert!(error.contains("belongs to mesh") && error.contains("choose another --state-dir"), "{error}");
        net.mesh.start_node(NEWCOMER, None).unwrap();
        net.mesh.settle().unwrap();
        net.mesh.nodes[NEWCOMER].process.take().unwrap().terminate(PATIENCE).unwrap();

        // A stranger finds out from the coordinator: by its certificate, or by what it says of itself.
        std::fs::remove_dir_all(&net.newcomer().state_dir).unwrap();
        let own: JoinToken = net.mesh.token("east", 1).unwrap().parse().unwrap();
        let foreign: JoinToken = foreign.parse().unwrap();
        let misled = JoinToken { urls: own.urls.clone(), ..foreign };
        let error = net.refused(Some(&misled.to_string()), &[]);
        assert!(error.contains("is not the coordinator that the token or credential pins"), "{error}");
        let mislabelled = JoinToken { mesh: MeshId::from_bytes([7; 16]), ..own.clone() };
        std::fs::remove_dir_all(&net.newcomer().state_dir).unwrap();
        let error = net.refused(Some(&mislabelled.to_string()), &[]);
        assert!(
            error.contains("this coordinator serves mesh")
                && error.contains("get a token from the right one"),
            "{error}"
        );
        assert_eq!(used(&net, &own), 0);
        net.assert_unharmed();
    });
}

/// How many nodes joined with a token.
fn used(net: &Bystanders, token: &JoinToken) -> u64 {
    let listed = net.mesh.json(&["token", "list"]).unwrap();
    let id = token.id.to_string();
    let listed = listed.as_array().unwrap().iter().find(|listed| listed["id"] == id.as_str()).cloned();
    listed.unwrap()["used"].as_u64().unwrap()
}
