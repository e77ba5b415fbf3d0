//! What comes from whoever configures a device: WireGuard's configuration protocol.

use carrick_dataplane::Device;
use carrick_node::configuration_answer;

use super::packets::{START, Seeded};

/// What a device tells and nobody can set.
const TOLD: [&str; 5] =
    ["last_handshake_time_sec", "last_handshake_time_nsec", "rx_bytes", "tx_bytes", "errno"];

/// Every key of the protocol, in what `wg` says and in what it does not.
pub(super) fn said() -> Vec<Vec<u8>> {
    let key = |byte: u8| format!("{byte:02x}").repeat(32);
    let (own, psk, one, two) = (key(1), key(2), key(7), key(9));
    let zero = key(0);
    [
        "get=1\n\n".to_owned(),
        format!(
            "set=1\nprivate_key={own}\nlisten_port=51820\nfwmark=4164\nreplace_peers=true\npublic_key={one}\nupdate_only=true\n\
             public_key={two}\npreshared_key={psk}\nendpoint=[fe80::1%1]:51820\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.1.2.3/16\nallowed_ip=-fd00::/8\nprotocol_version=1\n\nget=1\n\n"
        ),
        format!(
            "set=1\npublic_key={one}\nendpoint=192.0.2.1:1\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\npublic_key={one}\nremove=true\n\n\
             set=1\npublic_key={zero}\nallowed_ip=0.0.0.0/0\nallowed_ip=10.0.0.0/8\n\nset=1\nprivate_key={zero}\n\n"
        ),
        format!("set=1\npublic_key={one}\nallowed_ip=10.0.0.1/33\n\nnonsense\n\nset=1\n{}\n\n", "x".repeat(300)),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// What a device says of itself afterwards makes another one like it.
pub(super) fn run(input: &[u8]) {
    let ask = |device: &mut Device| {
        let shown = configuration_answer(device, b"get=1\n\n", *START);
        let settings = shown.lines().filter(|line| !TOLD.iter().any(|told| line.starts_with(told)));
        settings.fold(String::new(), |text, line| text + line + "\n")
    };
    let mut device = Device::stand_alone(Seeded(1));
    let answers = configuration_answer(&mut device, input, *START);
    assert!(answers.is_empty() || answers.ends_with("\n\n"));
    let shown = ask(&mut device);
    // The empty line at the end of what is shown ends the operation.
    let set = format!("set=1\n{shown}");
    let mut other = Device::stand_alone(Seeded(2));
    assert_eq!(configuration_answer(&mut other, set.as_bytes(), *START), "errno=0\n\n", "{set}");
    assert_eq!(ask(&mut other), shown);
}
