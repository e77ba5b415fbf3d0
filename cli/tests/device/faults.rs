//! What goes wrong on the way while a stream goes through a tunnel.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use carrick_lab::{eventually, in_lab, traffic::ping};

use crate::wireguard::{Device, INSIDE, Implementation, PATIENCE, PORT, Pair, find, run};

/// So many bytes more are a stream that goes on.
const MORE: u64 = 4 << 20;

#[test]
fn the_first_answer_in_a_new_session_comes_whichever_shard_it_goes_by() {
    in_lab(|lab| {
        let pair = Pair::new(lab, [Implementation::SingleCarrick, Implementation::ShardedCarrick]);
        pair.point(0, 0);
        pair.assert_pings();
        let listener = pair.two.host.tcp_listen(SocketAddr::new(INSIDE[1][0].parse().unwrap(), 0)).unwrap();
        let listener = listener.local_addr().unwrap();
        // The other one still has the session before, which this one does not know any more.
        let rounds = (0..24).filter(|_| {
            // Timestamps in initiations tell moments apart that are 17 ms apart.
            thread::sleep(Duration::from_millis(50));
            pair.forget(0);
            // From another port each time, and for less than the kernel waits before it asks again.
            pair.one.host.tcp_connect(listener, Duration::from_millis(900)).is_err()
        });
        // One or two may be late where other tests have the cores.
        let lost = rounds.count();
        assert!(lost < 4, "{lost} answers");
    });
}

#[test]
fn a_stream_goes_on_when_the_kernel_refuses_to_cut_datagrams_up() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let stream = Stream::start(&pair);
        // Something about these datagrams; the next ones may pass.
        for error in ["EINVAL", "EMSGSIZE", "EOPNOTSUPP"] {
            refuse(&pair, &stream, error);
            let after = watch(&pair, None, || stream.assert_goes_on("a refusal before"));
            assert!(after.iter().any(is_of_many), "none is tried after {error}");
        }
        // The interface cannot do it: a kernel before 6.11 says so of one that makes no checksums, any of one with IPsec behind it.
        refuse(&pair, &stream, "EIO");
        let after = watch(&pair, None, || stream.assert_goes_on("EIO before"));
        assert!(!after.iter().any(is_of_many), "{after:#?}");
    });
}

#[test]
fn sockets_ask_for_more_than_the_host_lets_anybody_have() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let calls = trace(&pair, &["-e", "trace=setsockopt"], || {
            for state in ["down", "up"] {
                run(&pair.one.host, "ip", &["link", "set", &pair.one.interface, state]);
            }
            pair.point(0, 0);
            pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
        });
        for option in ["SO_RCVBUFFORCE, [4194304]", "SO_SNDBUFFORCE, [4194304]"] {
            let asked = calls.iter().filter(|call| call.contains(option)).count();
            assert!(asked >= 2, "{option}: {calls:#?}");
        }
    });
}

#[test]
fn neighbours_that_fall_silent_hold_nobody_else_up() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let (one, two) = (&pair.one, &pair.two);
        // Where sockets have less room (in a user namespace, as the host's limit says), one such neighbour fills half of it.
        let sockets = run(&one.host, "ss", &["--udp", "--all", "--numeric", "--memory"]);
        let silent = if sockets.contains("tb8388608,") { 3..=8_u8 } else { 3..=3 };
        for number in silent.clone() {
            let (outside, inside) = (format!("192.0.2.{number}"), format!("10.77.0.{number}"));
            run(&two.host, "ip", &["address", "add", &format!("{outside}/24"), "dev", "eth0"]);
            let other = Device::start_at(
                Implementation::Carrick,
                &two.host,
                &format!("wg-{number}"),
                PORT + u16::from(number),
            );
            other.set(&["peer", &one.public_key, "allowed-ips", "10.77.0.1/32"]);
            let endpoint = format!("{outside}:{}", PORT + u16::from(number));
            let allowed_ips = format!("{inside}/32");
            one.set(&["peer", &other.public_key, "allowed-ips", &allowed_ips, "endpoint", &endpoint]);
            other.up(&[], "1420");
            let shook_hands = || {
                let _ = ping(&one.host, inside.parse().unwrap(), Duration::from_millis(50));
                let handshakes = run(&one.host, "wg", &["show", &one.interface, "latest-handshakes"]);
                handshakes
                    .lines()
                    .any(|line| line.starts_with(&other.public_key) && !line.ends_with("\t0"))
                    .then_some(())
            };
            eventually(PATIENCE, "a session", shook_hands).unwrap();
            run(&two.host, "ip", &["address", "del", &format!("{outside}/24"), "dev", "eth0"]);
        }
        run(&one.host, "ip", &["neighbour", "flush", "all"]);
        pair.assert_pings();
        let socket = one.host.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let address = INSIDE[1][0].parse().unwrap();
        let mut trips = Vec::new();
        for round in 0..2_000 {
            for number in silent.clone() {
                socket.send_to(&[7; 1300], (std::net::Ipv4Addr::new(10, 77, 0, number), 9)).unwrap();
            }
            if round % 20 == 0 {
                trips.push(ping(&one.host, address, PATIENCE).expect("an answer to each"));
            }
        }
        trips.sort_unstable();
        assert!(trips[50] < Duration::from_millis(100), "a hundred times what it takes: {trips:?}");
    });
}

#[test]
fn a_stream_goes_on_when_the_way_outside_gets_too_narrow_for_its_datagrams_and_wide_again() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        for family in [0, 1] {
            pair.point(0, family);
            pair.assert_pings();
            let stream = Stream::start(&pair);
            for mtu in [1300, 1500] {
                pair.link.set_mtu(mtu).unwrap();
                stream.assert_goes_on(&format!("an MTU of {mtu} outside"));
            }
        }
    });
}

/// Makes a call fail by which the sender has several datagrams sent at once. They go one by one then.
fn refuse(pair: &Pair, stream: &Stream, error: &str) {
    for number in 1..=30 {
        let calls = watch(pair, Some((error, number)), || stream.assert_goes_on(error));
        let refused = calls.iter().position(|call| is_of_many(call) && call.ends_with("(INJECTED)"));
        if let Some(refused) = refused {
            let next: Vec<_> = calls.iter().skip(refused + 1).take(2).collect();
            assert!(next.len() == 2 && !next.into_iter().any(is_of_many), "{error}: {calls:#?}");
            return;
        }
    }
    panic!("each of the calls that failed was for one datagram");
}

#[expect(clippy::ptr_arg, reason = "what iterators hand over")]
fn is_of_many(call: &String) -> bool {
    call.contains("SOL_UDP")
}

/// The calls by which something is sent during `work`. The one with this number fails, where one is to fail.
fn watch(pair: &Pair, failure: Option<(&str, usize)>, work: impl FnOnce()) -> Vec<String> {
    let inject = failure.map(|(error, number)| format!("inject=sendmsg:error={error}:when={number}"));
    let mut arguments = vec!["-e", "trace=sendmsg"];
    arguments.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    let calls = trace(pair, &arguments, work);
    calls.into_iter().filter(|call| call.contains("sendmsg(")).collect()
}

/// What `strace` says of the first device during `work`.
fn trace(pair: &Pair, arguments: &[&str], work: impl FnOnce()) -> Vec<String> {
    let program = find("strace").expect("strace is missing: apt-get install strace");
    let mut command = pair.one.host.command(program);
    command.args(["-f", "-p", &pair.one.process.pid().to_string()]).args(arguments);
    let strace = pair.one.host.spawn("strace", command).unwrap();
    strace.wait_for_line("attached", PATIENCE).unwrap();
    work();
    strace.terminate(PATIENCE).unwrap();
    assert!(pair.one.process.try_wait().unwrap().is_none(), "{}", pair.one.process.output());
    strace.stderr().lines().map(str::to_owned).collect()
}

/// A stream from the first to the second, as fast as it goes, until this is dropped.
struct Stream {
    arrived: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Stream {
    fn start(pair: &Pair) -> Self {
        let address = SocketAddr::new(INSIDE[1][0].parse().unwrap(), 0);
        let listener = pair.two.host.tcp_listen(address).unwrap();
        let mut sender = pair.one.host.tcp_connect(listener.local_addr().unwrap(), PATIENCE).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let (arrived, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let stream = Self { arrived: Arc::clone(&arrived), over: Arc::clone(&over) };
        receiver.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        sender.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        let ended = Arc::clone(&over);
        thread::spawn(move || count(receiver, &arrived, &ended));
        thread::spawn(move || while !over.load(Ordering::Relaxed) && go_on(sender.write(&[0x5a; 65_536])) {});
        stream.assert_goes_on("nothing");
        stream
    }

    fn assert_goes_on(&self, in_spite_of: &str) {
        let goal = self.arrived.load(Ordering::Relaxed) + MORE;
        let goes_on = || (self.arrived.load(Ordering::Relaxed) >= goal).then_some(());
        eventually(PATIENCE, &format!("more of the stream in spite of {in_spite_of}"), goes_on).unwrap();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn count(mut receiver: TcpStream, arrived: &AtomicU64, over: &AtomicBool) {
    let mut buffer = [0; 65_536];
    while !over.load(Ordering::Relaxed) {
        let read = receiver.read(&mut buffer);
        if let Ok(bytes) = read {
            arrived.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        if !go_on(read) {
            break;
        }
    }
}

/// Whether a stream has not ended. One that has no room, or nothing, for now may go on later.
fn go_on(outcome: std::io::Result<usize>) -> bool {
    match outcome {
        Ok(bytes) => bytes > 0,
        Err(error) => {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
        }
    }
}
