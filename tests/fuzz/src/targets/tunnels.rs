//! Each message of the protocol, to a device that waits for such a one: it has a peer, has begun a handshake, or has a session.
//!
//! Junk ends at the first MAC, or in a table of indices. What is tried here is changed first and then gets whatever lets it in: the type, the
//! index that is waited for, the MAC, and of data the seal.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use blake2::{
    Blake2s256, Blake2sMac,
    digest::{Digest, FixedOutput, Mac, consts::U16},
};
use carrick_dataplane::{
    Device, Transmit, addresses,
    offload::{Coalesced, Segments, VnetHeader},
};
use carrick_types::WireGuardKey;
use carrick_wireguard::{
    Admission, Config, Context, CookieChecker, HEADER, Identity, Load, Message, OVERHEAD, Tai64N, Tunnel,
    message::{COOKIE_REPLY, INITIATION, Initiation, MessageType, RESPONSE, receiver},
    padded,
};

use super::{
    flows::{finish, packets_of, seeds_of_flows},
    packets::{START, device, endpoint, key, packet, secret},
};

/// Where messages come from, which is not where the peer is said to be.
const ELSEWHERE: ([u8; 4], u16) = ([198, 51, 100, 7], 9);

/// A message may be changed in so many places.
const CHANGES: usize = 8;

/// The first byte of an input whose message is the peer's, but for changes. Any other: the rest is the message.
const MADE: u8 = 1;

fn elsewhere() -> SocketAddr {
    SocketAddr::from(ELSEWHERE)
}

/// Node 2, which node 1 knows.
struct Peer {
    tunnel: Tunnel,
    /// The timestamp, index and randomness that it makes its next message with.
    timestamp: [u8; 12],
    index: u32,
    random: [u8; 32],
}

static PEER: LazyLock<Arc<Identity>> = LazyLock::new(|| Identity::new(&secret(2)).into());

impl Peer {
    /// What it makes its messages with is in the input.
    fn of(input: &mut &[u8]) -> Self {
        let tunnel = Tunnel::new(PEER.clone(), key(1), Config::default());
        let (timestamp, index, random) = (take(input), u32::from_le_bytes(take(input)), take(input));
        Self { tunnel, timestamp, index, random }
    }

    fn with<R>(&mut self, now: Instant, step: impl FnOnce(&mut Tunnel, &mut Context<'_>) -> R) -> R {
        let (random, index) = (self.random, self.index);
        let mut context = Context {
            now,
            wall: Tai64N::from_bytes(self.timestamp),
            random: &mut |buffer: &mut [u8]| buffer.iter_mut().zip(random).for_each(|(to, from)| *to = from),
            indices: &mut || index,
        };
        step(&mut self.tunnel, &mut context)
    }

    /// Its next message, if it has one.
    fn says(&mut self) -> Option<Vec<u8>> {
        self.with(*START, Tunnel::poll_transmit).map(|transmit| transmit.datagram().to_vec())
    }

    fn begin(&mut self) -> Vec<u8> {
        self.tunnel.initiate(*START);
        self.says().expect("an initiation")
    }

    fn answer(&mut self, initiation: &[u8]) -> Vec<u8> {
        let identified = Initiation::parse(initiation).and_then(|initiation| PEER.identify(initiation));
        let identified = identified.expect("it is for this peer");
        self.with(*START, |tunnel, context| tunnel.handle_initiation(identified, context))
            .expect("it is genuine");
        self.says().expect("a response")
    }
}

/// What comes next in the input; zeros where it is over.
fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let (now, later) = input.split_at(N.min(input.len()));
    *input = later;
    let mut taken = [0; N];
    taken.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
    taken
}

/// Changes a message as the input says: where, and which bits. Whether a byte that `counts` is another now.
fn change(message: &mut [u8], input: &[u8], counts: impl Fn(usize) -> bool) -> bool {
    let before = message.to_vec();
    for place in input.as_chunks::<2>().0.iter().take(CHANGES) {
        let at = usize::from(place[0]) % message.len();
        message[at] ^= place[1];
    }
    message[..4].copy_from_slice(&before[..4]);
    before.iter().zip(message.iter()).enumerate().any(|(at, (before, after))| before != after && counts(at))
}

/// The input as a message of a type.
fn message_of<const N: usize>(input: &[u8], message: MessageType) -> [u8; N] {
    let mut bytes = take(&mut &*input);
    bytes[..4].copy_from_slice(&[message as u8, 0, 0, 0]);
    bytes
}

/// Makes the first MAC right (whitepaper, section 5.4.4).
fn sign(message: &mut [u8], to: &WireGuardKey) {
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(to.as_bytes()).finalize();
    let end = message.len() - 32;
    let mac = <Blake2sMac<U16> as Mac>::new_from_slice(&key).expect("32 bytes are a key");
    let mac1 = mac.chain_update(&message[..end]).finalize_fixed();
    message[end..end + 16].copy_from_slice(&mac1);
}

/// A datagram comes to a device, from elsewhere. Whether it was taken.
fn comes(device: &mut Device, datagram: &[u8], now: Instant) -> bool {
    let refused = device.counters().refused;
    device.handle_datagrams(elsewhere(), &mut datagram.to_vec(), datagram.len(), now, |_| {
        panic!("a handshake message brings no packet");
    });
    device.counters().refused == refused
}

fn sends(device: &mut Device) -> Vec<Transmit> {
    std::iter::from_fn(|| device.poll_transmit()).collect()
}

/// Node 1 after it has begun a handshake with node 2, since a packet waits, and its initiation.
fn begun() -> (Device, Vec<u8>) {
    let mut device = device(1, 2);
    device.handle_packet(&VnetHeader::default(), &packet(1, 2), *START);
    let mut sent = sends(&mut device);
    assert_eq!(sent.len(), 1);
    (device, sent.remove(0).payload)
}

fn sender(message: &[u8]) -> [u8; 4] {
    take(&mut &message[4..])
}

/// After whatever came, packets and timers do no harm.
fn goes_on(mut device: Device, now: Instant) {
    device.handle_packet(&VnetHeader::default(), &packet(1, 2), now);
    sends(&mut device);
    device.handle_timeout(now + Duration::from_secs(6));
    sends(&mut device);
}

/// With what a peer makes its messages; then changes.
fn seeds(changes: [&[u8]; 3]) -> Vec<Vec<u8>> {
    let made_with = [&[MADE][..], &[0x40; 12], &[1, 2, 3, 4], &[5; 32]].concat();
    changes.iter().map(|changes| [&made_with, *changes].concat()).collect()
}

/// The peer's initiation as it is, with another index, with another time; and one that is all input.
pub(super) fn initiations() -> Vec<Vec<u8>> {
    let mut peer = Peer::of(&mut [7; 48].as_slice());
    let raw = [&[0], peer.begin().as_slice()].concat();
    [seeds([&[], &[4, 1], &[90, 1]]), vec![raw]].concat()
}

pub(super) fn run_initiation(input: &[u8]) {
    let _ = is_initiation_answered(input);
}

fn is_initiation_answered(input: &[u8]) -> bool {
    let Some((form, mut input)) = input.split_first() else { return false };
    let (mut device, now) = (device(1, 2), *START);
    let (mut message, genuine) = if *form == MADE {
        let mut message = Peer::of(&mut input).begin();
        // What index the peer has is nobody's secret, and no part of the handshake.
        let changed = change(&mut message, input, |at| (8..INITIATION - 32).contains(&at));
        (message, Some(!changed))
    } else {
        (message_of::<INITIATION>(input, MessageType::Initiation).to_vec(), None)
    };
    sign(&mut message, &key(1));
    let taken = comes(&mut device, &message, now);
    assert!(genuine.is_none_or(|genuine| genuine == taken), "taken where it is the peer's, and only there");
    let sent = sends(&mut device);
    assert_eq!(sent.len(), usize::from(taken));
    for answer in sent {
        assert_eq!((answer.to, answer.payload.len()), (elsewhere(), RESPONSE));
        assert_eq!(answer.payload[8..12], sender(&message));
    }
    let later = now + Duration::from_secs(1);
    assert!(!comes(&mut device, &message, later) && sends(&mut device).is_empty(), "it is taken once");
    goes_on(device, later);
    taken
}

pub(super) fn responses() -> Vec<Vec<u8>> {
    let mut peer = Peer::of(&mut [7; 48].as_slice());
    let raw = [&[0], peer.answer(&begun().1).as_slice()].concat();
    [seeds([&[], &[4, 1], &[20, 1]]), vec![raw]].concat()
}

pub(super) fn run_response(input: &[u8]) {
    let _ = makes_a_session(input);
}

fn makes_a_session(input: &[u8]) -> bool {
    let Some((form, mut input)) = input.split_first() else { return false };
    let (mut device, initiation) = begun();
    let (mut message, genuine) = if *form == MADE {
        let mut message = Peer::of(&mut input).answer(&initiation);
        let changed = change(&mut message, input, |at| (8..RESPONSE - 32).contains(&at));
        (message, Some(!changed))
    } else {
        let mut message = message_of::<RESPONSE>(input, MessageType::Response);
        message[8..12].copy_from_slice(&sender(&initiation));
        (message.to_vec(), None)
    };
    sign(&mut message, &key(1));
    let taken = comes(&mut device, &message, *START);
    assert!(genuine.is_none_or(|genuine| genuine == taken), "taken where it is the peer's, and only there");
    for sent in sends(&mut device) {
        assert!(taken && sent.to == elsewhere(), "what waited goes to where the answer came from");
        assert_eq!(receiver(&sent.payload), Some(u32::from_le_bytes(sender(&message))));
    }
    assert_eq!(device.links().next().map(|link| link.endpoint), taken.then(elsewhere));
    assert!(!comes(&mut device, &message, *START) && sends(&mut device).is_empty(), "it is taken once");
    goes_on(device, *START);
    taken
}

pub(super) fn cookie_replies() -> Vec<Vec<u8>> {
    let raw = [&[0], cookie_reply(&begun().1, [7; 24]).as_slice()].concat();
    let made = |changes: &[u8]| [&[MADE][..], &[5; 24], changes].concat();
    vec![made(&[]), made(&[9, 1]), made(&[40, 0x80]), raw]
}

/// What node 2 answers under load.
fn cookie_reply(initiation: &[u8], nonce: [u8; 24]) -> [u8; COOKIE_REPLY] {
    let mut random = |buffer: &mut [u8]| buffer.iter_mut().zip(nonce).for_each(|(to, from)| *to = from);
    let mut checker = CookieChecker::new(&key(2));
    match checker.check(endpoint(), initiation, Load::Heavy, *START, &mut random) {
        Ok(Admission::Challenge(reply)) => reply,
        Ok(Admission::Admitted) | Err(_) => panic!("an initiation without a cookie is challenged"),
    }
}

pub(super) fn run_cookie_reply(input: &[u8]) {
    let _ = is_cookie_taken(input);
}

fn is_cookie_taken(input: &[u8]) -> bool {
    let Some((form, mut input)) = input.split_first() else { return false };
    let (mut device, initiation) = begun();
    let (message, genuine) = if *form == MADE {
        let mut message = cookie_reply(&initiation, take(&mut input));
        let changed = change(&mut message, input, |_| true);
        (message, Some(!changed))
    } else {
        let mut message = message_of::<COOKIE_REPLY>(input, MessageType::CookieReply);
        message[4..8].copy_from_slice(&sender(&initiation));
        (message, None)
    };
    let taken = comes(&mut device, &message, *START);
    assert!(genuine.is_none_or(|genuine| genuine == taken), "taken where it is the peer's, and only there");
    assert!(
        sends(&mut device).is_empty() && device.links().next().is_none(),
        "nothing is said, nobody was heard"
    );
    assert!(!comes(&mut device, &message, *START), "it is taken once");
    device.handle_timeout(*START + Duration::from_millis(300));
    let again = sends(&mut device);
    assert_eq!(again.iter().map(|sent| sent.to).collect::<Vec<_>>(), [endpoint()]);
    assert_eq!(again[0].payload[INITIATION - 16..] != [0; 16], taken, "the next one has the cookie");
    goes_on(device, *START + Duration::from_secs(1));
    taken
}

/// Packets of flows, see [`packets_of`].
pub(super) fn data() -> Vec<Vec<u8>> {
    seeds_of_flows(2, 1)
}

pub(super) fn run_data(input: &[u8]) {
    let _ = delivered(input);
}

/// Packets come from node 2 in one session, and in one call: how many come out, as the kernel takes them.
fn delivered(input: &[u8]) -> usize {
    let (mut device, initiation) = begun();
    let mut peer = Peer::of(&mut [9; 48].as_slice());
    let response = peer.answer(&initiation);
    assert!(comes(&mut device, &response, *START));
    for sent in sends(&mut device) {
        for datagram in sent.payload.clone().chunks_mut(sent.segment) {
            let mut batch = [Message::incoming(datagram).expect("it is data")];
            let opened = peer.tunnel.open(peer.index, &mut batch, *START);
            assert_eq!(opened.map(|opened| opened.refused), Ok(0), "both have the session");
        }
    }
    let mut packets = packets_of(input);
    packets.iter_mut().for_each(|packet| finish(packet, input));
    let segment =
        packets.iter().map(|packet| padded(packet.len(), 1_420) + OVERHEAD).max().unwrap_or_default();
    let mut datagrams = Vec::new();
    for packet in &packets {
        let mut datagram = vec![0; padded(packet.len(), 1_420) + OVERHEAD];
        datagram[HEADER..HEADER + packet.len()].copy_from_slice(packet);
        let mut batch = [Message::outgoing(&mut datagram, packet.len(), 1_420).expect("there is room")];
        peer.tunnel.seal(&mut batch, *START).expect("there is a session");
        datagrams.extend_from_slice(&datagram);
    }
    let (mut out, mut bytes) = (0, 0);
    let deliver = |packet: Coalesced<'_>| {
        let (header, packet) = (packet.header, packet.parts().collect::<Vec<_>>().concat());
        let found = addresses(&packet).expect("it has addresses");
        assert!(found.source.to_string().starts_with("10.0.2."), "it is from an address of the peer");
        assert!(found.destination.to_string().starts_with("10.0.1."), "it is to an address of this node");
        let mut segments = Segments::of(&header, &packet).expect("the kernel can split it");
        while let Some(length) = segments.next_length() {
            segments.append_next(&mut Vec::new());
            bytes += length;
        }
        out += 1;
    };
    let from = elsewhere();
    device.handle_datagrams(from, &mut datagrams.clone(), segment, *START, deliver);
    assert!(bytes <= packets.iter().map(Vec::len).sum(), "nothing was added");
    device.handle_datagrams(from, &mut datagrams, segment, *START, |_| panic!("nothing comes twice"));
    goes_on(device, *START);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_get_as_far_as_there_is_to_get() {
        let all = |seeds: Vec<Vec<u8>>, reaches: fn(&[u8]) -> bool| {
            seeds.iter().map(|seed| reaches(seed)).collect::<Vec<_>>()
        };
        assert_eq!(all(initiations(), is_initiation_answered), [true, true, false, true]);
        assert_eq!(all(responses(), makes_a_session), [true, true, false, true]);
        assert_eq!(all(cookie_replies(), is_cookie_taken), [true, false, false, true]);
        let out: Vec<_> = data().iter().map(|seed| delivered(seed)).collect();
        assert_eq!(out, [1, 1, 1, 4, 1]);
    }
}
