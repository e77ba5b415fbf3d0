//! What the lab promises, as claims.

#![expect(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::time::{Duration, Instant};

use carrick_lab::traffic::{Beacon, HttpServer, http_get, ping, stream};
use carrick_lab::{Error, Host, Lab, Link, Signal, eventually, in_lab, in_lab_for, preflight, reexec};
use nix::sys::signal::{kill, killpg};
use nix::unistd::{Pid, geteuid};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn pods_behind_two_nodes_reach_each_other_once_routes_are_added() {
    in_lab(|lab| {
        let net = TwoNodes::new(lab);
        for pod in [v4("10.2.1.10"), v6("fd00:2:1::10")] {
            assert!(ping(&net.east_pod, pod, SECOND / 5).is_err(), "{pod} answered without a route");
        }
        net.add_routes();
        for pod in [v4("10.2.1.10"), v6("fd00:2:1::10")] {
            ping(&net.east_pod, pod, SECOND).unwrap();
            let address = SocketAddr::new(pod, 80);
            let server = HttpServer::start(&net.west_pod, address, "hello from west".into()).unwrap();
            assert_eq!(http_get(&net.east_pod, address, SECOND).unwrap(), "hello from west");
            assert_eq!(server.requests(), 1);
        }
    });
}

#[test]
fn pods_of_one_node_reach_each_other_and_their_node() {
    in_lab(|lab| {
        let node = lab.host("node").unwrap();
        let first = lab.pod(&node, "first", &["10.1.1.10/24", "fd00:1:1::10/64"]).unwrap();
        lab.pod(&node, "second", &["10.1.1.11/24", "fd00:1:1::11/64"]).unwrap();
        for address in ["10.1.1.1", "10.1.1.11", "fd00:1:1::1", "fd00:1:1::11"] {
            ping(&first, address.parse().unwrap(), SECOND).unwrap();
        }
        assert!(ping(&first, v4("10.1.1.12"), SECOND / 5).is_err());
    });
}

#[test]
fn a_cut_link_carries_nothing_and_a_restored_one_carries_again() {
    in_lab(|lab| {
        let net = TwoNodes::new(lab);
        let router = v4("192.0.2.1");
        let to = SocketAddr::new(v4("192.0.3.2"), 9000);
        ping(&net.east, router, SECOND).unwrap();
        let before = net.east.network_state().unwrap();
        let beacon = Beacon::start(&net.east, &net.west, to, SECOND / 200, b"beacon").unwrap();
        eventually(SECOND, "a datagram", || beacon.last_received()).unwrap();

        net.east_link.cut().unwrap();
        let cut = Instant::now();
        assert!(ping(&net.east, router, SECOND / 5).is_err());
        let last = beacon.last_received().unwrap();
        assert!(last < cut + SECOND / 20, "a datagram arrived {:?} after the cut", last - cut);
        let sent = beacon.sent();
        eventually(SECOND, "senders go on", || (beacon.sent() > sent).then_some(())).unwrap();

        net.east_link.restore().unwrap();
        ping(&net.east, router, SECOND).unwrap();
        eventually(SECOND, "a datagram", || beacon.last_received().filter(|at| *at > cut + SECOND / 5))
            .unwrap();
        assert_eq!(before.diff(&net.east.network_state().unwrap()), "");
    });
}

#[test]
fn a_limit_holds_the_rate_and_outlives_a_cut() {
    in_lab(|lab| {
        let (a, b, link) = wired(lab);
        let to = SocketAddr::new(v4("10.0.0.2"), 5001);
        let limit = 20e6;
        link.limit(limit as u64).unwrap();
        link.cut().unwrap();
        link.restore().unwrap();
        let limited = stream(&a, &b, to, SECOND).unwrap().bits_per_second();
        assert!((0.5 * limit..1.2 * limit).contains(&limited), "{limited} bit/s through a limit of {limit}");
        link.unlimit().unwrap();
        let free = stream(&a, &b, to, SECOND / 2).unwrap().bits_per_second();
        assert!(free > 10.0 * limit, "{free} bit/s without a limit");
    });
}

#[test]
fn a_link_carries_no_more_than_its_mtu() {
    in_lab(|lab| {
        let (a, b, link) = wired(lab);
        link.set_mtu(1300).unwrap();
        let capture = b.capture("eth0").unwrap();
        let sender = a.udp_bind("10.0.0.1:0".parse().unwrap()).unwrap();
        sender.send_to(&[7; 1400], "10.0.0.2:9").unwrap();
        eventually(SECOND, "fragments", || {
            let fragments =
                capture.packets().iter().filter(|p| p.ip().is_some_and(|ip| ip.later_fragment)).count();
            (fragments == 1).then_some(())
        })
        .unwrap();
        assert!(capture.packets().iter().all(|packet| packet.bytes.len() <= 1314));
    });
}

#[test]
fn a_capture_sees_a_marker_in_both_directions_and_knows_wireguard() {
    in_lab(|lab| {
        let (a, b, _link) = wired(lab);
        for target in ["10.0.0.2:51820", "[fd00::2]:51820"] {
            let target: SocketAddr = target.parse().unwrap();
            let (sent, got) = (a.capture("eth0").unwrap(), b.capture_for("eth0", &[b"marker"]).unwrap());
            let _receiver = b.udp_bind(target).unwrap();
            let sender = a.udp_bind(SocketAddr::new(any(target), 0)).unwrap();
            send(&sender, target, b"a marker in plain sight");
            send(&sender, target, &wireguard(1, 148));
            send(&sender, target, &wireguard(1, 149));
            send(&sender, target, &wireguard(4, 32));
            send(&sender, target, &wireguard(4, 31));
            for capture in [&sent, &got] {
                assert!(capture.contains(b"marker").unwrap());
                assert!(capture.contains(b"in plain sight").unwrap());
                assert!(!capture.contains(b"absent").unwrap());
                let packets = capture.packets();
                let to_target = packets.iter().filter(|p| p.udp().is_some_and(|(_, to, _)| to == target));
                assert_eq!(to_target.clone().count(), 5);
                assert_eq!(to_target.filter(|p| p.is_wireguard()).count(), 2);
                assert_eq!(capture.count(), packets.len() as u64);
            }
        }
    });
}

#[test]
fn a_capture_that_kept_not_everything_does_not_claim_absence() {
    in_lab(|lab| {
        let (a, b, _link) = wired(lab);
        let mut capture = b.capture_for("eth0", &[b"registered"]).unwrap();
        let carried = stream(&a, &b, SocketAddr::new(v4("10.0.0.2"), 5001), SECOND).unwrap();
        assert!(carried.bytes > 100 << 20, "{carried:?} is too little to fill the capture");
        capture.stop();
        assert!(capture.unkept() > 0);
        assert!(matches!(capture.contains(b"unregistered"), Err(Error::CaptureIncomplete { .. })));
        match capture.contains(b"registered") {
            Ok(found) => assert!(!found && capture.dropped() == 0),
            Err(_) => assert!(capture.dropped() > 0),
        }
    });
}

#[test]
fn the_network_state_shows_what_was_left_behind() {
    in_lab(|lab| {
        let (a, _b, _link) = wired(lab);
        let before = a.network_state().unwrap();
        assert_eq!(before, a.network_state().unwrap());

        a.add_rule(100, 51820).unwrap();
        a.add_route("10.9.0.0/16", v4("10.0.0.2")).unwrap();
        a.sysctl("net.ipv4.conf.eth0.rp_filter", "2").unwrap();
        let diff = before.diff(&a.network_state().unwrap());
        for part in
            ["+ rule inet 100 totable table 51820", "+ route inet table 254 unicast 10.9.0.0/16 via 10.0.0.2"]
        {
            assert!(diff.contains(part), "no {part:?} in:\n{diff}");
        }
        assert!(diff.contains("- sysctl net.ipv4.conf.eth0.rp_filter = 0"), "{diff}");

        a.del_rule(100, 51820).unwrap();
        a.del_route("10.9.0.0/16", v4("10.0.0.2")).unwrap();
        a.sysctl("net.ipv4.conf.eth0.rp_filter", "0").unwrap();
        assert_eq!(before.diff(&a.network_state().unwrap()), "");
    });
}

#[test]
fn an_address_can_change_while_the_host_runs() {
    in_lab(|lab| {
        let (a, b, _link) = wired(lab);
        b.del_address("eth0", "10.0.0.2/24").unwrap();
        b.add_address("eth0", "10.0.0.3/24").unwrap();
        ping(&a, v4("10.0.0.3"), SECOND).unwrap();
        assert!(ping(&a, v4("10.0.0.2"), SECOND / 5).is_err());
    });
}

#[test]
fn a_process_runs_in_its_host_and_is_gone_when_dropped() {
    in_lab(|lab| {
        let (a, _b, _link) = wired(lab);
        let mut script = Command::new("sh");
        script.args(["-c", "cat /proc/net/fib_trie; echo ready >&2; sleep 1000 & wait"]);
        let process = a.spawn("script", script).unwrap();
        assert_eq!(process.wait_for_line("ready", SECOND).unwrap(), "ready");
        process.wait_for_line("10.0.0.1", SECOND).unwrap();
        assert!(process.stdout().contains("10.0.0.1") && process.stderr() == "ready\n");
        assert!(process.rss_bytes().unwrap() > 0 && process.cpu_seconds().unwrap() < 1.0);
        assert!(matches!(process.wait_for_line("never", SECOND / 10), Err(Error::Timeout { .. })));
        assert!(process.try_wait().unwrap().is_none());
        let group = process.pid();
        drop(process);
        eventually(SECOND, "the end of the group", || group_is_empty(group).then_some(())).unwrap();

        let ended = a.spawn("false", a.command("false")).unwrap();
        assert!(matches!(ended.wait_for_line("ready", SECOND), Err(Error::Ended { .. })));
        let asleep = a
            .spawn("asleep", {
                let mut c = a.command("sleep");
                c.arg("1000");
                c
            })
            .unwrap();
        asleep.signal(Signal::SIGCONT).unwrap();
        assert!(!asleep.terminate(SECOND).unwrap().success());
    });
}

#[test]
fn a_panicking_test_leaves_no_process_behind() {
    let tag = format!("panic-{}", process::id());
    let run = run_test(env::current_exe().unwrap(), "helper_that_panics", &tag, None);
    let output = text(&run);
    assert!(!run.status.success(), "{output}");
    assert!(output.contains("deliberate") && output.contains("started"), "{output}");
    eventually(SECOND, "no process with the tag", || tagged(&tag).is_empty().then_some(())).unwrap();
}

#[test]
fn a_test_that_does_not_end_fails_and_leaves_no_process_behind() {
    let tag = format!("hang-{}", process::id());
    let run = run_test(env::current_exe().unwrap(), "helper_that_hangs", &tag, None);
    let output = text(&run);
    assert!(!run.status.success() && output.contains("waited 1s for the end of"), "{output}");
    eventually(SECOND, "no process with the tag", || tagged(&tag).is_empty().then_some(())).unwrap();
}

#[test]
fn a_lab_works_without_privileges() {
    const NOBODY: u32 = 65534;
    let directory = env::temp_dir().join(format!("carrick-lab-{}", process::id()));
    fs::create_dir(&directory).unwrap();
    let copy = directory.join("lab");
    // By another process: a descriptor for writing, inherited by a concurrent fork, would make the copy "busy".
    assert!(Command::new("cp").arg(env::current_exe().unwrap()).arg(&copy).status().unwrap().success());
    for path in [&directory, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let claim = "pods_behind_two_nodes_reach_each_other_once_routes_are_added";
    let more = ["a_limit_holds_the_rate_and_outlives_a_cut", "the_network_state_shows_what_was_left_behind"];
    let runs: Vec<Output> = [claim]
        .iter()
        .chain(&more)
        .map(|claim| run_test(copy.clone(), claim, "nobody", Some(NOBODY)))
        .collect();
    let checked = run_test(copy, "helper_that_checks", "nobody", Some(NOBODY));
    fs::remove_dir_all(&directory).unwrap();
    let checked = text(&checked);
    let answers = ["preflight: Ok(())", "preflight: Err(/dev/net/tun is not accessible to uid 65534"];
    assert!(answers.iter().any(|answer| checked.contains(answer)), "{checked}");
    for run in &runs {
        assert!(run.status.success() && text(run).contains("1 passed"), "{}", text(run));
    }
}

#[test]
fn a_program_in_the_sandbox_gives_its_status_and_keeps_its_descriptors() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let script = format!(
        "echo \"$WORD $CARRICK_LAB $(grep -c : /proc/net/dev)\" >/proc/self/fd/{0}; exit 7",
        writer.as_raw_fd()
    );
    let word = [("WORD".into(), "word".into())];
    let status =
        reexec(Path::new("/bin/sh"), &["-c".into(), script.into()], &word, &[writer.as_raw_fd()]).unwrap();
    drop(writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(7), "word 1 1\n"));
}

#[test]
fn a_signal_to_end_goes_on_to_the_program_in_the_sandbox() {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["helper_that_waits_for_a_signal", "--exact", "--nocapture", "--ignored"]);
    let mut outer = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(outer.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    kill(Pid::from_raw(outer.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(outer.wait().unwrap().code(), Some(9));
}

#[test]
fn a_name_that_is_no_test_fails() {
    let nested = std::thread::Builder::new().name("no_such_test".into());
    let outcome = nested.spawn(|| in_lab(|_| {})).unwrap().join();
    let message = outcome.unwrap_err().downcast_ref::<String>().unwrap().clone();
    assert!(message.contains("no test named no_such_test ran"), "{message}");
}

#[test]
#[ignore = "a helper that fails on purpose"]
fn helper_that_panics() {
    in_lab(|lab| {
        let _process = sleeper(lab);
        println!("started");
        panic!("deliberate");
    });
}

#[test]
#[ignore = "a helper that says what is missing"]
fn helper_that_checks() {
    match preflight() {
        Ok(()) => println!("preflight: Ok(())"),
        Err(missing) => println!("preflight: Err({missing})"),
    }
}

#[test]
#[ignore = "a helper that ends this program"]
fn helper_that_waits_for_a_signal() {
    let script = r#"trap "exit 9" TERM; echo ready; sleep 1000 & wait"#;
    let status = reexec(Path::new("/bin/sh"), &["-c".into(), script.into()], &[], &[]).unwrap();
    process::exit(status.code().unwrap());
}

#[test]
#[ignore = "a helper that does not end"]
fn helper_that_hangs() {
    in_lab_for(SECOND, |lab| {
        let process = sleeper(lab);
        process.wait(Duration::from_secs(1000)).unwrap();
    });
}

/// Two nodes on segments of their own behind one router, with a pod each.
struct TwoNodes {
    east: Host,
    west: Host,
    east_pod: Host,
    west_pod: Host,
    router: Host,
    east_link: Link,
}

impl TwoNodes {
    fn new(lab: &mut Lab) -> Self {
        let router = lab.router("router").unwrap();
        let (east, west) = (lab.host("east").unwrap(), lab.host("west").unwrap());
        let left = lab.switch(&router, "left", &["192.0.2.1/24", "2001:db8:2::1/64"]).unwrap();
        let right = lab.switch(&router, "right", &["192.0.3.1/24", "2001:db8:3::1/64"]).unwrap();
        let east_link = lab.attach(&east, &left, "eth0", &["192.0.2.2/24", "2001:db8:2::2/64"]).unwrap();
        lab.attach(&west, &right, "eth0", &["192.0.3.2/24", "2001:db8:3::2/64"]).unwrap();
        let east_pod = lab.pod(&east, "east-pod", &["10.1.1.10/24", "fd00:1:1::10/64"]).unwrap();
        let west_pod = lab.pod(&west, "west-pod", &["10.2.1.10/24", "fd00:2:1::10/64"]).unwrap();
        Self { east, west, east_pod, west_pod, router, east_link }
    }

    fn add_routes(&self) {
        self.router.add_route("10.1.0.0/16", v4("192.0.2.2")).unwrap();
        self.router.add_route("10.2.0.0/16", v4("192.0.3.2")).unwrap();
        self.router.add_route("fd00:1::/32", v6("2001:db8:2::2")).unwrap();
        self.router.add_route("fd00:2::/32", v6("2001:db8:3::2")).unwrap();
    }
}

fn wired(lab: &mut Lab) -> (Host, Host, Link) {
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let ends = (["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"]);
    let link = lab.wire(&a, "eth0", &ends.0, &b, "eth0", &ends.1).unwrap();
    ping(&a, v4("10.0.0.2"), SECOND).unwrap();
    ping(&a, v6("fd00::2"), SECOND).unwrap();
    (a, b, link)
}

fn sleeper(lab: &mut Lab) -> carrick_lab::Process {
    let host = lab.host("host").unwrap();
    let mut command = host.command("sh");
    command.args(["-c", "sleep 1000 & echo asleep; wait"]);
    let process = host.spawn("sleeper", command).unwrap();
    process.wait_for_line("asleep", SECOND).unwrap();
    process
}

/// Runs one test of a copy of this program outside any sandbox, as another user if asked.
fn run_test(program: PathBuf, test: &str, tag: &str, uid: Option<u32>) -> Output {
    let mut command = Command::new(program);
    command
        .args([test, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
        .env("LAB_TEST_TAG", tag);
    if let Some(uid) = uid.filter(|_| geteuid().is_root()) {
        command.uid(uid).gid(uid).current_dir("/");
    }
    command.output().unwrap()
}

fn tagged(tag: &str) -> Vec<PathBuf> {
    let wanted = format!("LAB_TEST_TAG={tag}");
    let is_tagged = |path: &PathBuf| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path())).filter(is_tagged).collect()
}

fn group_is_empty(group: u32) -> bool {
    killpg(Pid::from_raw(group.cast_signed()), None).is_err()
}

fn text(run: &Output) -> String {
    [run.stdout.as_slice(), &run.stderr].map(String::from_utf8_lossy).join("\n")
}

fn wireguard(kind: u8, length: usize) -> Vec<u8> {
    let mut message = vec![0xaa; length];
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message
}

fn send(sender: &UdpSocket, target: SocketAddr, payload: &[u8]) {
    assert_eq!(sender.send_to(payload, target).unwrap(), payload.len());
}

fn any(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() { v4("0.0.0.0") } else { v6("::") }
}

fn v4(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn v6(address: &str) -> IpAddr {
    address.parse().unwrap()
}
