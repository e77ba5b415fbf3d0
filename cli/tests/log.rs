//! Claims about the log, with the real coordinator and command line.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path};

use carrick_lab::{Lab, Result, in_lab, mesh::Mesh};

const CARRICK: &str = env!("CARGO_BIN_EXE_carrick");

#[test]
fn a_log_that_only_grows_is_verified_again_and_again_across_restarts() {
    in_lab(|lab| -> Result<()> {
        let mut mesh = coordinator(lab)?;
        mesh.token("east", 2)?;
        assert_eq!(mesh.json(&["log", "verify"])?["entries"], 2, "the policy bundle and the token");
        restart(&mut mesh, |_| ())?;
        mesh.token("west", 1)?;
        let verified = mesh.json(&["log", "verify"])?;
        assert_eq!((&verified["entries"], &verified["seen_before"]), (&3.into(), &2.into()));
        let shown = mesh.operate(&["log", "show"])?;
        assert!(String::from_utf8_lossy(&shown.stdout).contains("token created"));
        Ok(())
    });
}

#[test]
fn a_coordinator_that_rewrites_its_log_is_found_out() {
    in_lab(|lab| -> Result<()> {
        let mut mesh = coordinator(lab)?;
        mesh.token("east", 1)?;
        let backup = mesh.directory().join("backup");
        restart(&mut mesh, |data| copy(data, &backup))?;
        mesh.token("east", 2)?;
        mesh.json(&["log", "verify"])?;
        restart(&mut mesh, |data| copy(&backup, data))?;
        mesh.token("east", 3)?;
        let refused = mesh.operate(&["log", "verify"])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("it was rewritten"), "{said}");
        Ok(())
    });
}

fn coordinator(lab: &mut Lab) -> Result<Mesh> {
    let mut mesh = Mesh::build(lab, Path::new(CARRICK), &[])?;
    mesh.start_coordinator(&[])?;
    Ok(mesh)
}

/// Stops the coordinator, does something to its data directory, and starts it again.
fn restart(mesh: &mut Mesh, change: impl FnOnce(&Path)) -> Result<()> {
    if let Some(coordinator) = mesh.coordinator.take() {
        coordinator.terminate(std::time::Duration::from_secs(10))?;
    }
    change(&mesh.data_dir());
    mesh.start_coordinator(&[])
}

/// The files of one directory in place of those of another.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}
