//! Where a join token may be seen while a node runs.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use carrick_types::{CaPin, Credential, JoinToken, MeshId, OperatorPin, Role, TokenId, TokenSeed};

#[test]
fn a_token_among_the_arguments_leaves_the_process_list() {
    let silent = Silent::coordinator();
    for arguments in
        [&["node", "--token", &silent.token][..], &["node", &format!("--token={}", silent.token)]]
    {
        let node = Node::start(&silent, Command::new(env!("CARGO_BIN_EXE_carrick")).args(arguments));
        node.holds_no_token_in_sight();
    }
}

#[test]
fn a_token_in_the_environment_leaves_it() {
    let silent = Silent::coordinator();
    let mut command = Command::new(env!("CARGO_BIN_EXE_carrick"));
    let node = Node::start(&silent, command.arg("node").env("CARRICK_TOKEN", &silent.token));
    node.holds_no_token_in_sight();
}

/// A coordinator that takes connections and says nothing: a node that joins waits for it.
struct Silent {
    token: String,
    listener: TcpListener,
}

impl Silent {
    fn coordinator() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let token = JoinToken {
            id: TokenId::from_bytes([1; 10]),
            mesh: MeshId::from_bytes([2; 16]),
            cluster: "east".parse().unwrap(),
            ca: CaPin::from_bytes([3; 32]).unwrap(),
            operator: OperatorPin::from_bytes([6; 32]).unwrap(),
            policy_version: 1,
            seed: TokenSeed::from_bytes([4; 32]),
            urls: vec![format!("https://{}", listener.local_addr().unwrap())],
        };
        Self { token: token.to_string(), listener }
    }
}

/// A node that is about to join.
struct Node {
    child: Child,
    token: String,
}

impl Node {
    fn start(silent: &Silent, command: &mut Command) -> Self {
        let port = silent.listener.local_addr().unwrap().port();
        let state = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("secrecy-{port}"));
        let command =
            command.arg("--state-dir").arg(state).args(["--name", "n"]).env("CARRICK_CREDENTIAL", "/secret");
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        Self { child, token: silent.token.clone() }
    }

    fn holds_no_token_in_sight(&self) {
        self.eventually("executes itself again", || {
            self.proc("cmdline").contains("--token-file=/proc/self/fd/")
        });
        for file in ["cmdline", "environ"] {
            let text = self.proc(file);
            assert!(!text.is_empty() && !text.contains(&self.token), "{file}: {text}");
        }
        assert!(!self.proc("environ").contains("CARRICK_CREDENTIAL"));
        self.eventually("closes the memory file", || {
            !self.descriptors().any(|target| target.contains("memfd"))
        });
        self.eventually("has its name back", || self.proc("comm") == "carrick\n");
    }

    fn proc(&self, file: &str) -> String {
        String::from_utf8_lossy(&fs::read(format!("/proc/{}/{file}", self.child.id())).unwrap()).into_owned()
    }

    fn descriptors(&self) -> impl Iterator<Item = String> {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.display().to_string())
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(4);
        while !holds() {
            assert!(Instant::now() < deadline, "a node never {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_token_in_the_wrong_place_is_not_printed_again() {
    for arguments in [
        ["node", "carrick_join_1_SECRET"],
        ["carrick_join_1_SECRET", "node"],
        ["operator", "carrick_operator_1_SECRET"],
    ] {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_carrick")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.is_empty() && !String::from_utf8_lossy(&said).contains("SECRET"));
    }
}

#[test]
fn an_operators_key_in_place_of_its_file_is_not_printed_again() {
    for arguments in [
        &["token", "create", "--cluster", "east", "--key-file"][..],
        &["bundle", "edit", "--key-file"],
        &["operator", "init", "--key-file"],
        &["operator", "init", "--former-key-file"],
    ] {
        let credential = credential();
        let mut command = Command::new(env!("CARGO_BIN_EXE_carrick"));
        command.args(arguments).arg("carrick_operator_1_SECRET").arg("--credential").arg(credential);
        // Nobody listens there.
        let output = command.args(["--coordinator", "https://127.0.0.1:1"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains("SECRET"), "{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn a_passphrase_is_taken_from_a_file_only() {
    for arguments in
        [["operator", "init", "--passphrase", "hunter2"], ["bundle", "edit", "--passphrase", "hunter2"]]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_carrick")).args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "there is no argument that would stand in the process list"
        );
    }
}

/// A credential for a coordinator that is not there.
fn credential() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("secrecy.credential");
    let credential = Credential::new(Role::Admin, CaPin::from_bytes([1; 32]).unwrap(), [2; 32]);
    fs::write(&path, credential.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
