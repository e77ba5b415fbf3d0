use std::time::Duration;

use super::*;

/// Sockets, and where theirs and another one's are on the loopback interface.
fn sockets(v6: bool) -> (UdpSockets, SocketAddr) {
    let sockets = UdpSockets::bind(0, 0).unwrap();
    let host = if v6 { "[::1]" } else { "127.0.0.1" };
    let at = format!("{host}:{}", sockets.port()).parse().unwrap();
    (sockets, at)
}

fn peer(v6: bool) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

/// Waits for what comes next.
fn next(socket: &UdpSocket, buffer: &mut [u8]) -> Received {
    for _ in 0..2_000 {
        match receive(socket, buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            received => return received.unwrap(),
        }
    }
    panic!("nothing came");
}

/// The address that something from `source` comes from.
fn seen(
    sockets: &UdpSockets,
    v6: bool,
    source: Option<Source>,
    payload: &[u8],
    segment: usize,
) -> Vec<IpAddr> {
    let (other, remote) = peer(v6);
    sockets.send_all(Endpoint { remote, source }, payload, segment).unwrap();
    let mut buffer = [0; 200];
    (0..payload.len().div_ceil(segment)).map(|_| other.recv_from(&mut buffer).unwrap().1.ip()).collect()
}

#[test]
fn what_was_sent_to_an_address_is_answered_from_there() {
    let address = IpAddr::from([127, 0, 0, 2]);
    let (sockets, _) = sockets(false);
    let (other, remote) = peer(false);
    other.send_to(&[1; 40], (address, sockets.port())).unwrap();
    let from = next(&sockets.v4, &mut [0; 200]).arrival.from;
    let interface = nix::net::if_::if_nametoindex("lo").unwrap();
    assert_eq!(from, Endpoint { remote, source: Some(Source { address, interface }) });
    sockets.send_all(from, &[2; 40], 40).unwrap();
    assert_eq!(other.recv_from(&mut [0; 200]).unwrap().1, (address, sockets.port()).into());
    assert_eq!(seen(&sockets, false, from.source, &[3; 250], 100), [address; 3], "many at once");
    assert_eq!(seen(&sockets, false, None, &[3; 250], 100), [IpAddr::from([127, 0, 0, 1]); 3]);
}

#[test]
fn what_was_sent_to_an_address_of_ipv6_is_answered_from_there() {
    let address = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let (sockets, at) = sockets(true);
    let (other, remote) = peer(true);
    other.send_to(&[1; 40], at).unwrap();
    let from = next(sockets.v6.as_ref().unwrap(), &mut [0; 200]).arrival.from;
    let interface = nix::net::if_::if_nametoindex("lo").unwrap();
    assert_eq!(from, Endpoint { remote, source: Some(Source { address, interface }) });
    assert_eq!(seen(&sockets, true, from.source, &[3; 250], 100), [address; 3]);
}

#[test]
fn what_cannot_leave_from_its_source_leaves_from_elsewhere_and_is_still_cut_up_by_the_kernel() {
    for (v6, gone, elsewhere, refusal) in [
        (false, "192.0.2.77", "127.0.0.1", Errno::ENETUNREACH),
        (true, "2001:db8::77", "::1", Errno::EINVAL),
        (true, "fe80::77", "::1", Errno::ENODEV),
    ] {
        let (sockets, _) = sockets(v6);
        let source = Source { address: gone.parse().unwrap(), interface: 0x7fff_0000 };
        let to = Endpoint { remote: peer(v6).1, source: Some(source) };
        assert_eq!(sockets.send_message(to, &[0; 40], None), Err(refusal), "{gone}");
        for length in [40, 250] {
            let from = seen(&sockets, v6, Some(source), &vec![0; length], 100);
            assert_eq!(from, vec![elsewhere.parse::<IpAddr>().unwrap(); length.div_ceil(100)]);
        }
        assert!(sockets.segments.load(Ordering::Relaxed));
    }
}

#[test]
fn where_the_kernel_stops_cutting_up_datagrams_go_one_by_one_and_none_is_lost() {
    let (sockets, _) = sockets(false);
    let (other, to) = peer(false);
    let payload: Vec<u8> = (0..250).collect();
    let mut buffer = [0; 200];
    let mut arrive = || {
        sockets.send_all(to.into(), &payload, 100).unwrap();
        let came: Vec<_> = (0..3)
            .map(|_| other.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap())
            .collect();
        assert_eq!(came.concat(), payload);
        assert_eq!(came.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
    };
    arrive();
    // Without checksums, which nothing can cut up (`EINVAL`).
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
    // SAFETY: the descriptor is open, and `on` is a number of the size that is said.
    let set = unsafe {
        libc::setsockopt(
            sockets.v4.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size,
        )
    };
    assert_eq!(set, 0);
    assert!(sockets.send_segments(to.into(), &payload, 100).is_err(), "the kernel refuses");
    arrive();
}

#[test]
fn each_datagram_of_a_burst_has_the_source_that_it_came_from() {
    for v6 in [false, true] {
        let (sockets, at) = sockets(v6);
        let socket = if v6 { sockets.v6.as_ref().unwrap() } else { &sockets.v4 };
        let others = [peer(v6), peer(v6), peer(v6)];
        for number in 0..30 {
            others[usize::from(number) % 3].0.send_to(&[number; 40], at).unwrap();
        }
        let mut buffer = [0; 4096];
        let mut seen = 0;
        while seen < 30 {
            let received = next(socket, &mut buffer);
            for datagram in buffer[..received.length].chunks(received.segment) {
                assert_eq!(received.arrival.from.remote, others[usize::from(datagram[0]) % 3].1);
                seen += 1;
            }
        }
    }
}

#[test]
fn the_shortest_and_the_longest_datagram_there_are_come_as_they_are() {
    let (sockets, at) = sockets(false);
    let (other, _) = peer(false);
    let mut buffer = vec![0; 1 << 16];
    for length in [0, carrick_dataplane::MAX_DATAGRAM] {
        other.send_to(&vec![9; length], at).unwrap();
        let received = next(&sockets.v4, &mut buffer);
        assert_eq!((received.length, received.segment), (length, length.max(1)));
    }
}

#[test]
fn each_data_message_comes_to_the_socket_that_its_index_names_and_all_else_to_the_first() {
    for v6 in [false, true] {
        let (first, at) = sockets(v6);
        let all = [first.join().unwrap(), first.join().unwrap()];
        first.steer(3).unwrap();
        let all = [&first, &all[0], &all[1]]
            .map(|sockets| if v6 { sockets.v6.as_ref().unwrap() } else { &sockets.v4 });
        let mut buffer = [0; 4096];
        let (other, _) = peer(v6);
        for (kind, slot, expected) in
            [(4, 3, 0), (4, 4, 1), (4, 5, 2), (1, 4, 0), (2, 5, 0), (3, 5, 0), (0, 5, 0)]
        {
            let datagram = [&[kind, 0, 0, 0, 7, slot, 1, 0][..], &[0; 24]].concat();
            other.send_to(&datagram, at).unwrap();
            assert_eq!(next(all[expected], &mut buffer).length, 32, "type {kind}, slot {slot}");
        }
        other.send_to(&[4], at).unwrap();
        assert_eq!(next(all[0], &mut buffer).length, 1, "one that is too short for an index");
        assert!(UdpSockets::bind(first.port(), 0).is_err(), "the port is taken");
    }
}

#[test]
fn congestion_is_seen_of_either_family_and_many_datagrams_at_once() {
    let sockets = UdpSockets::bind(0, 0).unwrap();
    for (from, socket) in [("127.0.0.1", &sockets.v4), ("::1", sockets.v6.as_ref().unwrap())] {
        let other = UdpSocket::bind((from, 0)).unwrap();
        other.connect((from, sockets.port())).unwrap();
        for (mark, expected) in
            [(0, Ecn::NotCapable), (1, Ecn::Capable1), (2, Ecn::Capable0), (3, Ecn::Congestion)]
        {
            let class = 0x88 | mark;
            let marked = if from == "::1" {
                setsockopt(&other, sockopt::Ipv6TClass, &class)
            } else {
                setsockopt(&other, sockopt::Ipv4Tos, &class)
            };
            marked.unwrap();
            setsockopt(&other, sockopt::UdpGsoSegment, &100).unwrap();
            other.send(&[7; 300]).unwrap();
            let received = next(socket, &mut [0; 400]);
            assert_eq!((received.arrival.ecn, received.length), (expected, 300));
            assert_eq!(received.arrival.from.remote, other.local_addr().unwrap());
        }
    }
}
