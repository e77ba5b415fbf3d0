//! A coordinator without space.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::Path,
};

use carrick_lab::in_lab;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    bystanders::{Bystanders, NEWCOMER, build, ids},
    support::PATIENCE,
};

#[test]
fn a_full_disk_is_named_and_costs_nothing_that_was_acknowledged() {
    in_lab(|lab| {
        let mut mesh = build(lab);
        let data_dir = mesh.data_dir();
        fs::create_dir(&data_dir).unwrap();
        let size = Some("size=4m,mode=700");
        mount(Some("tmpfs"), &data_dir, Some("tmpfs"), MsFlags::empty(), size).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let mut net = Bystanders::join(mesh);
        let token = net.mesh.token("east", 1).unwrap();
        fill(&data_dir.join("filler"));

        let (made, error) = make_tokens_until_refused(&net);
        assert!(
            error.starts_with("carrick: error: the coordinator's disk is full: free space on "),
            "{error}"
        );
        assert!(error.ends_with("nothing acknowledged was lost (HTTP 507)\n"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        // A node that wants to join is told that it is not its fault, and goes on trying.
        let newcomer = net.start_newcomer(Some(&token), &[]);
        newcomer.wait_for_line("the coordinator cannot write at the moment", PATIENCE).unwrap();
        assert!(listed(&net).is_superset(&made));
        net.assert_unharmed();

        fs::remove_file(data_dir.join("filler")).unwrap();
        newcomer.wait_for_line("netmap applied", PATIENCE).unwrap();
        net.mesh.nodes[NEWCOMER].process = Some(newcomer);
        net.mesh.token("east", 1).unwrap();
        net.assert_unharmed();
        // Also to the one that comes after it.
        net.mesh.coordinator.take().unwrap().kill().unwrap();
        net.mesh.start_coordinator(&[]).unwrap();
        assert!(listed(&net).is_superset(&made));
        net.assert_unharmed();

        drop(net);
        umount2(&data_dir, MntFlags::MNT_DETACH).unwrap();
    });
}

/// The ids of the tokens that were still made, and what the operator is told then.
fn make_tokens_until_refused(net: &Bystanders) -> (BTreeSet<String>, String) {
    let mut made = BTreeSet::new();
    for _ in 0..500 {
        let output = net.mesh.operate(&["token", "create", "--cluster", "east", "-o", "json"]).unwrap();
        if !output.status.success() {
            return (made, String::from_utf8(output.stderr).unwrap());
        }
        let token: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        made.insert(token["id"].as_str().unwrap().to_owned());
    }
    panic!("there is no end to the space");
}

fn listed(net: &Bystanders) -> BTreeSet<String> {
    ids(&net.mesh, &["token", "list"])
}

/// Writes until there is no space left.
fn fill(path: &Path) {
    let mut filler = File::create(path).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        let error = loop {
            if let Err(error) = filler.write_all(&vec![0; size]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }
}
