//! On a way that keeps the order of datagrams, a flow comes out in the order in which it went in.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use carrick_lab::{Host, Lab, in_lab};
use nix::sys::socket::{setsockopt, sockopt};

use crate::wireguard::{INSIDE, Implementation, PATIENCE, Pair};

/// Flows: more than shards, so that most of these have some.
const FLOWS: usize = 8;

/// Bytes of a datagram.
const DATAGRAM: usize = 1200;

/// Datagrams that come at once.
const BURST: usize = 32;

/// How many of these there are.
const BURSTS: usize = 2000;

/// Before these the sender loses its sessions.
const LOSSES: [usize; 2] = [BURSTS / 3, 2 * BURSTS / 3];

/// So much less than the rate of a device that it need not lose any.
const PAUSE: Duration = Duration::from_millis(2);

/// After so long no more will come.
const SILENCE: Duration = Duration::from_secs(2);

/// Bytes of a stream.
const STREAM: usize = 100_000_000;

/// Bytes of it that may be on the way: few enough for every queue there is.
const WINDOW: usize = 128 << 10;

#[test]
fn datagrams_of_a_flow_stay_in_order_also_where_they_wait_for_new_sessions() {
    in_lab(|lab| datagrams_stay_in_order(lab, Implementation::SingleCarrick, 1));
}

#[test]
fn datagrams_of_a_flow_stay_in_order_where_several_shards_move_packets() {
    in_lab(|lab| datagrams_stay_in_order(lab, Implementation::ShardedCarrick, 0));
}

#[test]
fn a_stream_stays_in_order() {
    in_lab(|lab| a_stream_stays_in_order_with(lab, Implementation::SingleCarrick));
}

#[test]
fn a_stream_stays_in_order_where_several_shards_move_packets() {
    in_lab(|lab| a_stream_stays_in_order_with(lab, Implementation::ShardedCarrick));
}

/// Twice there are no keys when packets come, of IPv4 (0) or IPv6 (1).
fn datagrams_stay_in_order(lab: &mut Lab, implementation: Implementation, family: usize) {
    let pair = Pair::new(lab, [implementation; 2]);
    pair.point(0, 0);
    pair.assert_pings();
    let receiver = pair.two.host.udp_bind(SocketAddr::new(INSIDE[1][family].parse().unwrap(), 0)).unwrap();
    let senders = [(); FLOWS].map(|()| {
        let sender = pair.one.host.udp_bind(SocketAddr::new(INSIDE[0][family].parse().unwrap(), 0)).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        // Several in one buffer are as many datagrams, and may come to the device as one.
        setsockopt(&sender, sockopt::UdpGsoSegment, &i32::try_from(DATAGRAM).unwrap()).unwrap();
        sender
    });
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    let began = pair.two.last_handshake();
    let numbers = thread::scope(|scope| {
        let receiving = scope.spawn(|| numbers(&receiver));
        for burst in 0..BURSTS {
            if LOSSES.contains(&burst) {
                pair.forget(0);
            }
            let sender = &senders[burst % FLOWS];
            let datagrams: Vec<Vec<u8>> = (burst * BURST..(burst + 1) * BURST).map(datagram).collect();
            if (burst / FLOWS).is_multiple_of(2) {
                datagrams.iter().for_each(|datagram| send(sender, datagram));
            } else {
                datagrams.chunks(BURST / 2).for_each(|datagrams| send(sender, &datagrams.concat()));
            }
            thread::sleep(PAUSE);
        }
        receiving.join().unwrap()
    });
    let mut early = Vec::new();
    for flow in 0..FLOWS {
        let of_flow = numbers.iter().filter(|number| **number / BURST % FLOWS == flow).collect::<Vec<_>>();
        early.extend(of_flow.windows(2).filter(|pair| pair[0] >= pair[1]).map(|pair| (*pair[0], *pair[1])));
    }
    let lost = BURSTS * BURST - numbers.len().min(BURSTS * BURST);
    let what = format!("of {} that arrived; {lost} were lost", numbers.len());
    assert!(early.is_empty(), "{} were overtaken {what}: {:?}", early.len(), &early[..early.len().min(20)]);
    assert!(lost < BURSTS * BURST / 2, "{what}");
    assert!(pair.two.last_handshake() > began);
    assert!(
        numbers.iter().max().is_some_and(|last| *last >= (BURSTS - 100) * BURST),
        "{:?}",
        numbers.iter().max()
    );
}

/// A datagram with this number.
fn datagram(number: usize) -> Vec<u8> {
    let mut datagram = vec![0; DATAGRAM];
    datagram[..8].copy_from_slice(&(number as u64).to_be_bytes());
    datagram
}

fn send(sender: &UdpSocket, datagrams: &[u8]) {
    assert_eq!(sender.send(datagrams).unwrap(), datagrams.len());
}

/// The numbers of the datagrams as they arrive, until none does.
fn numbers(receiver: &UdpSocket) -> Vec<usize> {
    let (mut numbers, mut buffer) = (Vec::new(), [0; DATAGRAM + 1]);
    loop {
        match receiver.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(length, DATAGRAM);
                numbers.push(u64::from_be_bytes(buffer[..8].try_into().unwrap()) as usize);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return numbers;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn a_stream_stays_in_order_with(lab: &mut Lab, implementation: Implementation) {
    let pair = Pair::new(lab, [implementation; 2]);
    pair.point(0, 0);
    pair.assert_pings();
    // Where a segment was lost, those behind it come before it.
    for _ in 0..10 {
        let before = [early(&pair.two.host), retransmitted(&pair.one.host)];
        carry(&pair);
        let early = early(&pair.two.host) - before[0];
        if early == 0 {
            return;
        }
        assert!(retransmitted(&pair.one.host) > before[1], "{early} segments came before earlier ones");
    }
    panic!("something was lost each time");
}

/// Carries a stream from one to the other.
fn carry(pair: &Pair) {
    let listener = pair.two.host.tcp_listen(SocketAddr::new(INSIDE[1][0].parse().unwrap(), 0)).unwrap();
    setsockopt(&listener, sockopt::RcvBuf, &WINDOW).unwrap();
    let mut sender = pair.one.host.tcp_connect(listener.local_addr().unwrap(), PATIENCE).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    sender.set_write_timeout(Some(PATIENCE)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sending = thread::spawn(move || {
        let chunk = vec![0x5a; 1 << 20];
        let mut left = STREAM;
        while left > 0 {
            left -= sender.write(&chunk[..left.min(chunk.len())]).unwrap();
        }
    });
    let (mut received, mut buffer) = (0, vec![0; 1 << 18]);
    while received < STREAM {
        let bytes = receiver.read(&mut buffer).unwrap();
        assert!(bytes > 0, "it ended after {received} bytes");
        received += bytes;
    }
    sending.join().unwrap();
}

/// How many segments came before earlier ones, by what TCP has counted on a host.
fn early(host: &Host) -> u64 {
    counter(host, "netstat", "TcpExt:", "TCPOFOQueue")
}

/// How many segments a host has sent again.
fn retransmitted(host: &Host) -> u64 {
    counter(host, "snmp", "Tcp:", "RetransSegs")
}

fn counter(host: &Host, file: &str, group: &str, counter: &str) -> u64 {
    let text = host.within(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap());
    // Names, and values.
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let [names, values] = [(); 2].map(|()| lines.next().unwrap().split_ascii_whitespace());
    names.zip(values).find(|(name, _)| *name == counter).unwrap().1.parse().unwrap()
}
