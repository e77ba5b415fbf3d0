//! `wg` and `wg-quick` as they come with a distribution.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use carrick_lab::{Host, eventually, in_lab, traffic::ping};
use nix::mount::{MsFlags, mount};

use crate::wireguard::{
    ATTEMPT, Device, INSIDE, Implementation, PATIENCE, Pair, find, own_run, public, run, secret_file, try_run,
};

#[test]
fn everything_that_is_set_is_shown() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let device = Device::start(Implementation::Carrick, &host, "wg-one");
        let peer = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        let preshared = run(&host, "wg", &["genpsk"]);
        let file = secret_file("psk", &preshared);
        device.set(&["fwmark", "0x1234"]);
        device.set(&[
            "peer",
            peer,
            "preshared-key",
            file.to_str().unwrap(),
            "endpoint",
            "[2001:db8::9]:7",
            "persistent-keepalive",
            "25",
            "allowed-ips",
            "10.1.2.3/16,fd00::/8",
        ]);
        let dump = run(&host, "wg", &["show", "wg-one", "dump"]);
        let fields: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
        let [own, other] = &fields[..] else { panic!("{dump}") };
        assert_eq!(own[1..], [device.public_key.as_str(), "51820", "0x1234"]);
        let prefixes = "10.1.0.0/16,fd00::/8";
        assert_eq!(other[..5], [peer, preshared.trim(), "[2001:db8::9]:7", prefixes, "0"]);
        assert_eq!((other[5], other[7]), ("0", "25"));

        device.set(&["fwmark", "off", "peer", peer, "persistent-keepalive", "off", "allowed-ips", ""]);
        let dump = run(&host, "wg", &["show", "wg-one", "dump"]);
        assert!(
            dump.contains("\toff\n") && dump.contains("\t(none)\t0\t") && dump.ends_with("\toff\n"),
            "{dump}"
        );
        device.set(&["peer", peer, "remove"]);
        assert_eq!(run(&host, "wg", &["show", "wg-one", "peers"]), "");
    });
}

#[test]
fn no_key_reaches_the_log() {
    in_lab(|lab| {
        own_run();
        let host = lab.host("one").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_carrick"));
        command.args(["device", "-f", "wg-one"]).env("CARRICK_LOG", "trace");
        let process = host.spawn("wg-one", command).unwrap();
        process.wait_for_line("device started", PATIENCE).unwrap();
        let keys = ["genkey", "genpsk"].map(|what| run(&host, "wg", &[what]).trim().to_owned());
        let files = [secret_file("private", &keys[0]), secret_file("preshared", &keys[1])];
        let [private, preshared] = files.each_ref().map(|file| file.to_str().unwrap());
        let peer = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        let set = ["set", "wg-one", "private-key", private, "peer", peer, "preshared-key", preshared];
        run(&host, "wg", &set);
        let shown = run(&host, "wg", &["showconf", "wg-one"]);
        assert!(keys.iter().all(|key| shown.contains(key)));
        assert!(process.terminate(PATIENCE).unwrap().success());
        let log = process.output();
        assert!(log.contains("device stopped"), "{log}");
        // Neither in base64 nor in the hexadecimal digits of the protocol.
        assert!(!keys.iter().any(|key| log.contains(key.as_str())) && !has_long_hex(&log), "{log}");
    });
}

#[test]
fn a_configuration_that_was_shown_makes_the_same_device_again() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let device = Device::start(Implementation::Carrick, &host, "wg-one");
        let mut peers = String::new();
        for number in 0..300 {
            let secret = run(&host, "wg", &["genkey"]);
            peers += &format!("[Peer]\nPublicKey = {secret}");
            for third in 0..number % 7 {
                peers += &format!("AllowedIPs = 10.{}.{third}.0/24\n", number % 256);
            }
        }
        let shown = run(&host, "wg", &["showconf", "wg-one"]);
        fs::write("/run/full", format!("{shown}\n{peers}")).unwrap();
        run(&host, "wg", &["setconf", "wg-one", "/run/full"]);
        let full = run(&host, "wg", &["showconf", "wg-one"]);
        assert_eq!(full.matches("[Peer]").count(), 300);
        fs::write("/run/shown", &full).unwrap();

        device.set(&[
            "peer",
            full.lines().find_map(|line| line.strip_prefix("PublicKey = ")).unwrap(),
            "remove",
        ]);
        assert_ne!(run(&host, "wg", &["showconf", "wg-one"]), full);
        run(&host, "wg", &["syncconf", "wg-one", "/run/shown"]);
        assert_eq!(run(&host, "wg", &["showconf", "wg-one"]), full);
        fs::write("/run/empty", "").unwrap();
        run(&host, "wg", &["setconf", "wg-one", "/run/empty"]);
        let empty = run(&host, "wg", &["showconf", "wg-one"]);
        assert!(!empty.contains("[Peer]") && !empty.contains("PrivateKey"), "{empty}");
        run(&host, "wg", &["setconf", "wg-one", "/run/shown"]);
        assert_eq!(run(&host, "wg", &["showconf", "wg-one"]), full);
    });
}

#[test]
fn a_sync_that_changes_nothing_keeps_the_sessions() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let before = (pair.one.last_handshake(), pair.one.transfer());
        let shown = run(&pair.one.host, "wg", &["showconf", "wg-one"]);
        fs::write("/run/shown", shown).unwrap();
        run(&pair.one.host, "wg", &["syncconf", "wg-one", "/run/shown"]);
        pair.assert_pings();
        assert_eq!(pair.one.last_handshake(), before.0);
        assert!(pair.one.transfer() > before.1);
    });
}

#[test]
fn a_prefix_moves_to_the_peer_that_got_it_last() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let device = Device::start(Implementation::Carrick, &host, "wg-one");
        let peers =
            ["xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="];
        device.set(&["peer", peers[0], "allowed-ips", "10.0.0.0/8,10.1.0.0/16"]);
        device.set(&["peer", peers[1], "allowed-ips", "10.1.0.0/16"]);
        let shown = run(&host, "wg", &["show", "wg-one", "allowed-ips"]);
        let mut lines: Vec<_> = shown.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, [format!("{}\t10.1.0.0/16", peers[1]), format!("{}\t10.0.0.0/8", peers[0])]);
    });
}

#[test]
fn a_port_that_is_taken_is_refused_and_the_old_one_stays() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let _taken = pair.one.host.udp_bind("0.0.0.0:7777".parse().unwrap()).unwrap();
        let refused = try_run(&pair.one.host, "wg", &["set", "wg-one", "listen-port", "7777"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("Address already in use"), "{said}");
        assert_eq!(pair.one.show("listen-port"), "51820");
        pair.assert_pings();
        pair.one.set(&["listen-port", "7778"]);
        // The other one is told by what comes from there.
        pair.assert_pings();
        assert_eq!(pair.two.show("endpoints"), "192.0.2.1:7778");
        pair.one.set(&["listen-port", "0"]);
        assert!(!["0", "7778"].contains(&pair.one.show("listen-port").as_str()));
        pair.assert_pings();
    });
}

#[test]
fn wg_quick_brings_a_tunnel_up_and_takes_it_down() {
    in_lab(|lab| {
        own_run();
        let hosts = [lab.host("one").unwrap(), lab.host("two").unwrap()];
        lab.wire(&hosts[0], "eth0", &["192.0.2.1/24"], &hosts[1], "eth0", &["192.0.2.2/24"]).unwrap();
        let before = hosts.each_ref().map(|host| host.network_state().unwrap());
        let quick = Quick::new();
        let secrets = [0, 1].map(|n| run(&hosts[n], "wg", &["genkey"]));
        let publics = [0, 1].map(|n| public(&hosts[n], &secrets[n]));
        for (n, name) in ["wg-one", "wg-two"].into_iter().enumerate() {
            let configuration = format!(
                "[Interface]\nPrivateKey = {}Address = {}/32, {}/128\nListenPort = 51820\n[Peer]\nPublicKey = {}\n\
                 AllowedIPs = {}/32, {}/128\nEndpoint = 192.0.2.{}:51820\nPersistentKeepalive = 25\n",
                secrets[n],
                INSIDE[n][0],
                INSIDE[n][1],
                publics[1 - n],
                INSIDE[1 - n][0],
                INSIDE[1 - n][1],
                2 - n
            );
            let said = quick.run(&hosts[n], "up", name, &configuration);
            assert!(said.contains("carrick-device"), "{said}");
        }
        for (n, host) in hosts.iter().enumerate() {
            for address in INSIDE[1 - n] {
                let answer = || ping(host, address.parse().unwrap(), ATTEMPT).ok();
                eventually(PATIENCE, "an answer through the tunnel", answer).unwrap();
            }
        }
        for (host, name) in hosts.iter().zip(["wg-one", "wg-two"]) {
            quick.run(host, "down", name, "");
        }
        for (host, before) in hosts.iter().zip(before) {
            eventually(PATIENCE, "the network as it was", || {
                before.diff(&host.network_state().unwrap()).is_empty().then_some(())
            })
            .unwrap();
        }
        let left: Vec<_> = fs::read_dir("/var/run/wireguard").unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

/// `wg-quick` on a host whose kernel has no WireGuard, wherever this runs.
struct Quick(PathBuf);

impl Quick {
    /// It looks for programs beside itself first: there is an `ip` that makes no WireGuard interfaces. Whether the kernel has WireGuard
    /// it sees in /sys.
    fn new() -> Self {
        let directory = Path::new("/run/quick");
        fs::create_dir(directory).unwrap();
        fs::copy(find("wg-quick").expect("apt-get install wireguard-tools"), directory.join("wg-quick"))
            .unwrap();
        symlink(env!("CARGO_BIN_EXE_carrick"), directory.join("carrick-device")).unwrap();
        let ip = find("ip").expect("apt-get install iproute2");
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *'type wireguard'*) echo 'Error: Unknown device type.' >&2; exit 2;; esac\nexec {} \"$@\"\n",
            ip.display()
        );
        fs::write(directory.join("ip"), script).unwrap();
        fs::set_permissions(directory.join("ip"), fs::Permissions::from_mode(0o755)).unwrap();
        if Path::new("/sys/module/wireguard").exists() {
            mount(Some("tmpfs"), "/sys/module", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        Self(directory.to_owned())
    }

    /// What it says, when it has succeeded.
    fn run(&self, host: &Host, what: &str, interface: &str, configuration: &str) -> String {
        let file = self.0.join(format!("{interface}.conf"));
        if !configuration.is_empty() {
            fs::write(&file, configuration).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut command = host.command(self.0.join("wg-quick"));
        command.arg(what).arg(file).env("WG_QUICK_USERSPACE_IMPLEMENTATION", "carrick-device");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "wg-quick {what}: {said}");
        said
    }
}

fn has_long_hex(text: &str) -> bool {
    text.split(|character: char| !character.is_ascii_hexdigit()).any(|run| run.len() >= 64)
}
