//! The binary as an operator meets it.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use carrick_types::{CaPin, Credential, Role};

#[test]
fn nothing_listening_is_one_line_on_stderr_and_exit_code_1() {
    let port = closed_port();
    let output = carrick(&["nodes", "--coordinator", &format!("https://127.0.0.1:{port}"), "--credential"])
        .arg(credential("unreachable"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        format!(
            "carrick: error: cannot reach the coordinator at https://127.0.0.1:{port}: Connection refused (os error 111)\n"
        )
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn no_coordinator_is_an_error_that_says_what_to_do() {
    let output = carrick(&["status"]).env("HOME", empty_home()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("--coordinator URL and --credential FILE"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_damaged_token_is_refused_and_not_repeated() {
    let output = carrick(&["node", "--token", "carrick_join_1_AAAASECRET"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "carrick: error: the join token is truncated or altered: copy it again, whole\n"
    );
}

#[test]
fn joining_kubernetes_points_to_joining_the_host() {
    let output = carrick(&["join", "TOKEN"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`carrick join TOKEN --host` joins this host"));
}

#[test]
fn a_wrong_argument_is_one_line_on_stderr_and_exit_code_2() {
    for (arguments, help) in [
        (&["token", "create", "--cluster", "East"][..], "carrick --help"),
        (&["token", "create", "--cluster", "east", "--ttl", "0s"], "carrick --help"),
        (&["token", "create"], "carrick token create --help"),
        (&["node", "--mtu", "1"], "carrick --help"),
        (&["nodes", "--color"], "carrick nodes --help"),
        (&["nods"], "carrick --help"),
        (&["log", "verify", "--operator", "x"], "carrick --help"),
    ] {
        let output = carrick(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("carrick: error: ") && said.lines().count() == 1, "{said}");
        assert!(said.ends_with(&format!(": see `{help}`\n")), "{said}");
    }
    let helped = carrick(&["token", "--help"]).output().unwrap();
    assert!(helped.status.success() && text(&helped.stdout).lines().count() > 5, "help is as long as it is");
}

#[test]
fn the_version_has_a_commit() {
    let output = succeeded(carrick(&["--version"]).output().unwrap());
    let version = text(&output.stdout);
    let commit = version.trim().strip_prefix(&format!("carrick {} (", env!("CARGO_PKG_VERSION")));
    let commit = commit.and_then(|rest| rest.strip_suffix(')')).unwrap_or_else(|| panic!("{version}"));
    let hash = commit.strip_suffix("-dirty").unwrap_or(commit);
    assert!(
        hash == "unknown" || hash.len() == 12 && hash.bytes().all(|c| c.is_ascii_hexdigit()),
        "{version}"
    );
}

#[test]
fn completions_are_there_for_the_shells() {
    for (shell, expected) in
        [("bash", "_carrick()"), ("zsh", "#compdef carrick"), ("fish", "complete -c carrick")]
    {
        let output = succeeded(carrick(&["completions", shell]).output().unwrap());
        let script = text(&output.stdout);
        assert!(script.contains(expected) && script.contains("topology"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child =
        carrick(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(errors, "");
}

fn carrick(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carrick"));
    for name in
        ["CARRICK_COORDINATOR", "CARRICK_CREDENTIAL", "CARRICK_TOKEN", "CARRICK_LOG", "XDG_CONFIG_HOME"]
    {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn succeeded(output: Output) -> Output {
    assert!(output.status.success(), "{output:?}");
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A port of the loopback on which nothing listens: it was free a moment ago.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn credential(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.credential"));
    let credential = Credential::new(Role::Admin, CaPin::from_bytes([1; 32]).unwrap(), [2; 32]);
    fs::write(&path, format!("{credential}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn empty_home() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("empty-home");
    fs::create_dir_all(&path).unwrap();
    path
}
