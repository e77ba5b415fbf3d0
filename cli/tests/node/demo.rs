//! `carrick demo`, as somebody meets it who has never seen Carrick.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use carrick_lab::in_lab_for;
use nix::{
    mount::{MsFlags, mount},
    sys::stat::{Mode, SFlag, makedev, mknod, umask},
};
use serde_json::Value;

use crate::support::carrick;

/// Nobody in particular.
const NOBODY: u32 = 65534;

#[test]
fn the_demo_proves_every_step_tells_it_as_json_and_leaves_no_process() {
    in_lab_for(Duration::from_secs(150), |_| {
        let before = processes();
        let output = Command::new(carrick()).args(["demo", "--once", "--json"]).output().unwrap();
        assert_is_proof(&output);
        assert_eq!(processes(), before, "every process of this sandbox");
    });
}

#[test]
fn the_demo_needs_no_privilege() {
    in_lab_for(Duration::from_secs(150), |_| {
        let directory = directory();
        let mut command = Command::new(copy(&directory));
        command.args(["demo", "--once", "--json"]).current_dir("/").env("HOME", "/");
        if is_real_root() {
            open_tun();
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        fs::remove_dir_all(directory).unwrap();
        assert_is_proof(&output);
    });
}

#[test]
fn the_demo_says_what_is_missing_where_tun_is_closed_to_it() {
    in_lab_for(Duration::from_secs(60), |_| {
        let tun = "/dev/net/tun";
        bind(tun, MsFlags::empty());
        bind(tun, MsFlags::MS_REMOUNT | MsFlags::MS_NODEV);
        let output = Command::new(carrick()).args(["demo", "--once", "--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "carrick: error: /dev/net/tun is not accessible to uid 0 (Permission denied (os error 13)): \
             run as root, or \"sudo chmod 666 /dev/net/tun\"\n"
        );
        assert!(output.stdout.is_empty());
    });
}

/// Asserts that the demo did all that it is to do, and said so in the form that is documented.
fn assert_is_proof(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["ok"], true, "{outcome}");
    for figure in ["first_answer_ms", "throughput_gbit_s", "revoke_ms"] {
        assert!(outcome[figure].as_f64().is_some_and(|value| value > 0.0), "{figure} of {outcome}");
    }
    let steps = outcome["steps"].as_array().unwrap();
    assert!(steps.len() >= 5, "{outcome}");
    for step in steps {
        let (name, ms) = (step["name"].as_str().unwrap(), step["ms"].as_f64().unwrap());
        assert!(step["ok"] == true && ms >= 0.0 && !name.is_empty(), "{step}");
        assert!(text.contains(name), "people are told of {name:?}, too: {text}");
    }
}

/// The processes of this sandbox, which has its own process ids.
fn processes() -> BTreeSet<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether this is root of the machine, and not of a user namespace.
fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes a `/dev/net/tun` for everybody, in this sandbox.
fn open_tun() {
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    let everybody = Mode::from_bits_truncate(0o666);
    let old = umask(Mode::empty());
    mknod("/dev/net/tun", SFlag::S_IFCHR, everybody, makedev(10, 200)).unwrap();
    umask(old);
}

/// Mounts something onto itself, so that it can be mounted otherwise.
fn bind(path: &str, more: MsFlags) {
    mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | more, None::<&str>).unwrap();
}

fn directory() -> PathBuf {
    let directory = nix::unistd::mkdtemp(&std::env::temp_dir().join("carrick-demo-XXXXXX")).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A copy of the program that everybody may run.
fn copy(directory: &Path) -> PathBuf {
    let copy = directory.join("carrick");
    fs::copy(carrick(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}
