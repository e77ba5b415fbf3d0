//! How a device begins and ends.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixStream,
    },
    path::Path,
    process::{Command, Output},
};

use carrick_lab::{Host, eventually, in_lab, traffic::ping};
use nix::sys::{
    signal::Signal,
    socket::{getsockopt, sockopt},
};

use crate::wireguard::{
    ATTEMPT, Device, INSIDE, Implementation, PATIENCE, Pair, own_run, run, socket, try_run,
};

const CARRICK: &str = env!("CARGO_BIN_EXE_carrick");

#[test]
fn a_device_detaches_once_it_is_there_and_ends_with_its_interface() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let before = host.network_state().unwrap();
        let output = detach(&host, CARRICK, &["device", "wg-one"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
        assert_eq!(mode(&socket("wg-one")), 0o600);
        assert_eq!(mode(Path::new("/var/run/wireguard")), 0o700);
        let comm = format!("/proc/{}/comm", server("wg-one"));
        assert_eq!(fs::read_to_string(comm).unwrap(), "carrick\n");
        assert_eq!(run(&host, "wg", &["show", "interfaces"]), "wg-one\n");
        let addresses = run(&host, "ip", &["-oneline", "address", "show", "dev", "wg-one"]);
        assert_eq!(addresses, "", "addresses are the administrator's affair");
        run(&host, "ip", &["link", "delete", "wg-one"]);
        assert_gone(&host, "wg-one");
        assert_eq!(before.diff(&host.network_state().unwrap()), "");
    });
}

#[test]
fn a_device_stays_in_the_foreground_where_the_environment_says_so() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let start = |value| {
            let mut command = Command::new(CARRICK);
            command.args(["device", "wg-one"]).env("WG_PROCESS_FOREGROUND", value);
            host.spawn("wg-one", command).unwrap()
        };
        let process = start("1");
        process.wait_for_line("device started", PATIENCE).unwrap();
        assert_eq!(u32::try_from(server("wg-one")).unwrap(), process.pid());
        assert!(process.terminate(PATIENCE).unwrap().success());
        assert_gone(&host, "wg-one");
        // Another value is none.
        let process = start("0");
        assert!(process.wait(PATIENCE).unwrap().success());
        assert_ne!(u32::try_from(server("wg-one")).unwrap(), process.pid());
        fs::remove_file(socket("wg-one")).unwrap();
        assert_gone(&host, "wg-one");
    });
}

#[test]
fn a_link_called_carrick_device_takes_the_name_alone_as_wg_quick_gives_it() {
    in_lab(|lab| {
        // Of each kind of character that wg-quick takes.
        let name = "wg_0=a+B.c-d";
        let host = lab.host("one").unwrap();
        own_run();
        symlink(CARRICK, "/run/carrick-device").unwrap();
        let output = detach(&host, "/run/carrick-device", &[name]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(run(&host, "wg", &["show", "interfaces"]), format!("{name}\n"));
        fs::remove_file(socket(name)).unwrap();
        assert_gone(&host, name);
    });
}

#[test]
fn a_device_ends_with_its_socket_and_on_signals() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        type Cause = fn(&Device);
        let causes: [Cause; 4] = [
            |_| fs::remove_file(socket("wg-one")).unwrap(),
            |_| fs::rename(socket("wg-one"), "/run/elsewhere").unwrap(),
            |device| device.process.signal(Signal::SIGTERM).unwrap(),
            |device| device.process.signal(Signal::SIGINT).unwrap(),
        ];
        for end in causes {
            let device = Device::start(Implementation::Carrick, &host, "wg-one");
            end(&device);
            let status = device.process.wait(PATIENCE).unwrap();
            assert!(status.success(), "{}", device.process.output());
            assert_gone(&host, "wg-one");
        }
    });
}

#[test]
fn a_device_takes_no_other_ones_place_but_that_of_one_that_was_killed() {
    in_lab(|lab| {
        let (host, other) = (lab.host("one").unwrap(), lab.host("two").unwrap());
        own_run();
        let device = Device::start(Implementation::Carrick, &host, "wg-one");
        let taken = detach(&host, CARRICK, &["device", "wg-one"]);
        assert_refused(&taken, "there is an interface called wg-one already");
        // A name that the kernel keeps for itself.
        assert_refused(
            &detach(&host, CARRICK, &["device", "all"]),
            "\"all\" cannot be the name of an interface",
        );
        // Its interface would be free on the other host; the socket is not.
        let live = detach(&other, CARRICK, &["device", "wg-one"]);
        assert_refused(&live, "another process answers at /var/run/wireguard/wg-one.sock");
        assert!(try_run(&other, "ip", &["link", "show", "wg-one"]).status.code() == Some(1));
        assert_eq!(run(&host, "wg", &["show", "wg-one", "listen-port"]), "51820\n");
        device.process.kill().unwrap();
        assert!(socket("wg-one").exists());
        let again = Device::start(Implementation::Carrick, &host, "wg-one");
        assert_eq!(run(&host, "wg", &["show", "wg-one", "public-key"]).trim(), again.public_key);
    });
}

#[test]
fn an_interface_that_was_down_is_quiet_and_carries_packets_again_once_it_is_up() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let link = |state| drop(run(&pair.one.host, "ip", &["link", "set", "wg-one", state]));
        link("down");
        let before = pair.one.process.cpu_seconds().unwrap();
        ping(&pair.two.host, INSIDE[0][0].parse().unwrap(), ATTEMPT * 3).unwrap_err();
        let used = pair.one.process.cpu_seconds().unwrap() - before;
        assert!(used < 0.5, "{used} s of CPU time in three seconds");
        link("up");
        // Addresses of IPv6 went with it.
        for (device, inside) in [(&pair.one, INSIDE[1]), (&pair.two, INSIDE[0])] {
            device.eventually_ping(inside[0].parse().unwrap());
        }
    });
}

#[test]
fn what_a_device_in_the_background_has_to_say_goes_to_its_log_file() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let output = detach(&host, CARRICK, &["device", "--log-file", "/run/log", "wg-one"]);
        assert!(output.status.success(), "{output:?}");
        eventually(PATIENCE, "the log", || {
            fs::read_to_string("/run/log").unwrap().contains("device started").then_some(())
        })
        .unwrap();
        assert_eq!(mode(Path::new("/run/log")), 0o600);
        let output = detach(&host, CARRICK, &["device", "--log-file", "/run/no/log", "wg-two"]);
        assert_refused(&output, "cannot log to /run/no/log");
    });
}

/// Starts a device as a shell does: the command is over when the device is there.
fn detach(host: &Host, program: &str, arguments: &[&str]) -> Output {
    let mut command: Command = host.command(program);
    command.args(arguments).output().unwrap()
}

/// The process that answers for a device.
fn server(interface: &str) -> i32 {
    let client = UnixStream::connect(socket(interface)).unwrap();
    getsockopt(&client, sockopt::PeerCredentials).unwrap().pid()
}

fn assert_refused(output: &Output, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(reason), "{said}");
}

pub(crate) fn assert_gone(host: &Host, interface: &str) {
    eventually(PATIENCE, &format!("the end of {interface}"), || {
        let link = try_run(host, "ip", &["link", "show", interface]).status.success();
        (!socket(interface).exists() && !link).then_some(())
    })
    .unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
