use std::time::Duration;

use carrick_dataplane::PeerState;
use proptest::{collection::vec, option, prelude::*};

use carrick_types::WireGuardKey;

use super::*;
use crate::uapi::{lines::Lines, print};

#[test]
fn every_key_of_the_protocol_is_understood() {
    let text = format!(
        "set=1\nprivate_key={0}\nlisten_port=51820\nfwmark=4164\nreplace_peers=true\npublic_key={0}\nremove=true\n\
         public_key={0}\nupdate_only=true\npreshared_key={0}\nendpoint=[2001:db8::1]:51820\n\
         persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.1.2.3/16\nallowed_ip=-fd00::/8\n\
         protocol_version=1\n\n",
        hex([7; 32])
    );
    let key = WireGuardKey::from_bytes([7; 32]).unwrap();
    let expected = Set {
        private_key: Some(Some(secret([7; 32]))),
        listen_port: Some(51820),
        fwmark: Some(4164),
        replace_peers: true,
        peers: vec![
            SetPeer { remove: true, ..SetPeer::new(key) },
            SetPeer {
                update_only: true,
                preshared_key: Some(PresharedKey::from_bytes([7; 32])),
                endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
                persistent_keepalive: Some(25),
                replace_allowed_ips: true,
                allowed_ips: vec![
                    AllowedIp::Allow("10.1.0.0/16".parse().unwrap()),
                    AllowedIp::Disallow("fd00::/8".parse().unwrap()),
                ],
                ..SetPeer::new(key)
            },
        ],
    };
    assert_eq!(parse(text.as_bytes()), [Ok(Operation::Set(expected))]);
}

#[test]
fn a_key_of_zeros_is_none() {
    let set = Set { private_key: Some(None), ..Set::default() };
    let text = format!("set=1\nprivate_key={}\n\n", hex([0; 32]));
    assert_eq!(parse(text.as_bytes()), [Ok(Operation::Set(set))]);
}

#[test]
fn a_link_local_endpoint_names_its_interface() {
    let set = |endpoint: &str| {
        parse(format!("set=1\npublic_key={}\nendpoint={endpoint}\n\n", hex([7; 32])).as_bytes())
    };
    let [Ok(Operation::Set(named))] = &set("[fe80::1%lo]:7")[..] else { panic!() };
    let index = if_nametoindex("lo").unwrap();
    assert_eq!(named.peers[0].endpoint, Some(format!("[fe80::1%{index}]:7").parse().unwrap()));
    assert_eq!(set(&format!("[fe80::1%{index}]:7")), set("[fe80::1%lo]:7"));
    assert_eq!(set("[fe80::1%none]:7"), [Err(Errno::EINVAL)]);
    assert_eq!(set("[fe80::1%]:7"), [Err(Errno::EINVAL)]);
}

#[test]
fn what_replaces_prefixes_replaces_those_named_before_it() {
    let text =
        format!("set=1\npublic_key={}\nallowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\n\n", hex([7; 32]));
    let [Ok(Operation::Set(set))] = &parse(text.as_bytes())[..] else { panic!() };
    assert!(set.peers[0].replace_allowed_ips && set.peers[0].allowed_ips.is_empty());
}

#[test]
fn operations_follow_each_other() {
    let found = parse(b"get=1\n\nset=1\n\n\n\nget=1\n\n");
    assert_eq!(found, [Ok(Operation::Get), Ok(Operation::Set(Set::default())), Ok(Operation::Get)]);
}

#[test]
fn what_is_wrong_ends_the_operation_and_not_the_next_one() {
    let key = hex([7; 32]);
    let zero = hex([0; 32]);
    for (wrong, errno) in [
        ("listen_port=65536", Errno::EINVAL),
        ("listen_port=-1", Errno::EINVAL),
        ("listen_port=+1", Errno::EINVAL),
        ("listen_port=", Errno::EINVAL),
        ("fwmark=0x10", Errno::EINVAL),
        ("private_key=07", Errno::EINVAL),
        ("private_key=é", Errno::EINVAL),
        ("replace_peers=false", Errno::EINVAL),
        ("set=1", Errno::EINVAL),
        ("nonsense=1", Errno::EINVAL),
        ("nonsense", Errno::EPROTO),
        (&format!("private_key={key}0"), Errno::EINVAL),
        (&format!("public_key={key}\npublic_key={zero}0"), Errno::EINVAL),
        (&format!("public_key={key}\nlisten_port=1"), Errno::EINVAL),
        (&format!("public_key={key}\nendpoint=10.0.0.1"), Errno::EINVAL),
        (&format!("public_key={key}\nendpoint=10.0.0.1:0"), Errno::EINVAL),
        (&format!("public_key={key}\nendpoint=example.org:1"), Errno::EINVAL),
        (&format!("public_key={key}\nallowed_ip=10.0.0.1"), Errno::EINVAL),
        (&format!("public_key={key}\nallowed_ip=10.0.0.1/33"), Errno::EINVAL),
        (&format!("public_key={key}\nallowed_ip=--10.0.0.1/32"), Errno::EINVAL),
        (&format!("public_key={key}\nremove=1"), Errno::EINVAL),
        (&format!("public_key={key}\nprotocol_version=2"), Errno::EINVAL),
        (&format!("public_key={key}\npersistent_keepalive_interval=off"), Errno::EINVAL),
        (&"x".repeat(100_000), Errno::EMSGSIZE),
    ] {
        let text = format!("set=1\n{wrong}\nlisten_port=1\n\nget=1\n\n");
        assert_eq!(parse(text.as_bytes()), [Err(errno), Ok(Operation::Get)], "{wrong:.100}");
    }
    assert_eq!(
        parse(b"get=1\nset=1\n\nget=2\n\n\xff=1\n\n"),
        [Err(Errno::EINVAL), Err(Errno::EPROTO), Err(Errno::EPROTO)]
    );
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_what_it_was(set in set()) {
        prop_assert_eq!(parse(print_set(&set).as_bytes()), [Ok(Operation::Set(set))]);
    }

    #[test]
    fn what_a_device_says_of_itself_is_what_makes_another_like_it(set in set()) {
        let peers: Vec<_> = set.peers.iter().map(state).collect();
        let secret = set.private_key.as_ref().and_then(Option::as_ref);
        let port = set.listen_port.unwrap_or_default();
        let about = print::device(secret, port, set.fwmark.unwrap_or_default());
        let about = format!("{}{}", *about, *print::peers(&peers, |_| Duration::from_secs(1)));
        let told = |line: &&str| !line.starts_with("last_handshake") && !line.contains("x_bytes=");
        let lines = about.lines().filter(told).collect::<Vec<_>>().join("\n");
        let expected = Set {
            private_key: secret.cloned().map(Some),
            listen_port: Some(port),
            fwmark: set.fwmark.filter(|mark| *mark != 0),
            replace_peers: false,
            peers: peers.iter().map(like).collect(),
        };
        prop_assert_eq!(parse(format!("set=1\n{lines}\n\n").as_bytes()), [Ok(Operation::Set(expected))]);
    }

    #[test]
    fn junk_is_an_answer_or_nothing(junk in vec(any::<u8>(), 0..2000)) {
        parse(&junk);
    }

    #[test]
    fn a_line_that_is_hit_is_refused_or_understood(set in set(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut text = print_set(&set).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        parse(&text);
    }
}

fn parse(text: &[u8]) -> Vec<Result<Operation, Errno>> {
    let (mut parser, mut found) = (Parser::default(), Vec::new());
    Lines::default().push(text, |line| found.extend(parser.line(&line)));
    found
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print_set(set: &Set) -> String {
    let mut text = "set=1\n".to_owned();
    let mut line = |key: &str, value: &dyn std::fmt::Display| text.push_str(&format!("{key}={value}\n"));
    if let Some(secret) = &set.private_key {
        line("private_key", &hex(secret.as_ref().map_or([0; 32], |secret| *secret.expose())));
    }
    set.listen_port.iter().for_each(|port| line("listen_port", port));
    set.fwmark.iter().for_each(|mark| line("fwmark", mark));
    if set.replace_peers {
        line("replace_peers", &true);
    }
    for peer in &set.peers {
        line("public_key", &hex(*peer.public_key.as_bytes()));
        let flags = [("remove", peer.remove), ("update_only", peer.update_only)];
        let flags = flags.into_iter().chain([("replace_allowed_ips", peer.replace_allowed_ips)]);
        flags.filter(|(_, on)| *on).for_each(|(key, on)| line(key, &on));
        peer.preshared_key.iter().for_each(|key| line("preshared_key", &hex(*key.expose())));
        peer.endpoint.iter().for_each(|endpoint| line("endpoint", endpoint));
        peer.persistent_keepalive.iter().for_each(|seconds| line("persistent_keepalive_interval", seconds));
        for allowed_ip in &peer.allowed_ips {
            match allowed_ip {
                AllowedIp::Allow(prefix) => line("allowed_ip", prefix),
                AllowedIp::Disallow(prefix) => line("allowed_ip", &format!("-{prefix}")),
            }
        }
    }
    text + "\n"
}

/// A peer of which everything is known that a client may say.
fn state(peer: &SetPeer) -> PeerState {
    let prefixes = peer.allowed_ips.iter().map(|allowed_ip| match *allowed_ip {
        AllowedIp::Allow(prefix) | AllowedIp::Disallow(prefix) => prefix,
    });
    PeerState {
        key: peer.public_key,
        preshared_key: peer.preshared_key.clone().unwrap_or_default(),
        endpoint: peer.endpoint,
        persistent_keepalive: peer.persistent_keepalive.map(|seconds| Duration::from_secs(seconds.into())),
        allowed_ips: prefixes.collect(),
        last_handshake: None,
        rx_bytes: 1,
        tx_bytes: 2,
    }
}

fn like(state: &PeerState) -> SetPeer {
    SetPeer {
        preshared_key: Some(state.preshared_key.clone()),
        endpoint: state.endpoint,
        persistent_keepalive: Some(
            state.persistent_keepalive.map_or(0, |interval| interval.as_secs() as u16),
        ),
        allowed_ips: state.allowed_ips.iter().copied().map(AllowedIp::Allow).collect(),
        ..SetPeer::new(state.key)
    }
}

fn secret(bytes: [u8; 32]) -> WireGuardSecret {
    WireGuardSecret::from_bytes(*clamped(bytes.into()))
}

fn set() -> impl Strategy<Value = Set> {
    let secret = option::of(any::<[u8; 32]>().prop_map(secret));
    (option::of(secret), option::of(any::<u16>()), option::of(any::<u32>()), any::<bool>(), vec(peer(), 0..4))
        .prop_map(|(private_key, listen_port, fwmark, replace_peers, peers)| Set {
            private_key,
            listen_port,
            fwmark,
            replace_peers,
            peers,
        })
}

fn peer() -> impl Strategy<Value = SetPeer> {
    let key = any::<[u8; 32]>().prop_filter_map("a weak point", |bytes| WireGuardKey::from_bytes(bytes).ok());
    let preshared_key = option::of(any::<[u8; 32]>().prop_map(PresharedKey::from_bytes));
    let endpoint = (any::<IpAddr>(), 1..=u16::MAX).prop_map(SocketAddr::from);
    let flags = any::<[bool; 3]>();
    (key, flags, preshared_key, option::of(endpoint), option::of(any::<u16>()), vec(prefix(), 0..5)).prop_map(
        |(
            public_key,
            [remove, update_only, replace_allowed_ips],
            preshared_key,
            endpoint,
            keepalive,
            prefixes,
        )| {
            SetPeer {
                public_key,
                remove,
                update_only,
                preshared_key,
                endpoint,
                persistent_keepalive: keepalive,
                replace_allowed_ips,
                allowed_ips: prefixes,
            }
        },
    )
}

fn prefix() -> impl Strategy<Value = AllowedIp> {
    (any::<IpAddr>(), 0..=128_u8, any::<bool>()).prop_filter_map(
        "too long for IPv4",
        |(address, length, allow)| {
            Cidr::containing(address, length).map(if allow { AllowedIp::Allow } else { AllowedIp::Disallow })
        },
    )
}
