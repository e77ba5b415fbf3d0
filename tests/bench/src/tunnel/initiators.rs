//! Many peers of one device, which do nothing but begin handshakes with it.
//!
//! They come in bursts, as after an outage, and the next burst goes when the one before is answered. So no device is asked for more than
//! it can do, whatever that is, and nothing is lost in its queues. Where a device asks for a cookie, as against a flood, the peer's next
//! initiation has it. Devices admit 20 handshakes a second of each sender: with 256,
//! that is 5,120, and one that did more would need more peers.

use std::{
    io::{self, IoSlice},
    iter,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    ops::AddAssign,
    os::fd::AsRawFd as _,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use carrick_types::{WireGuardKey, WireGuardSecret};
use carrick_wireguard::{
    Config, Context, Identity, Tai64N, Transmit, Tunnel,
    message::{self, CookieReply, MessageType, Response},
};
use nix::{
    libc::{in_addr, in_pktinfo},
    sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
};

/// So many come at once. wireguard-go calls 128 that wait a load, and sends cookies then.
const BURST: usize = 32;

/// Between a burst of a peer and its next: devices take no two initiations of one within 20 ms.
const APART: Duration = Duration::from_millis(25);

/// How long a burst waits for its answers.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the time is looked at while nothing comes.
const TICK: Duration = Duration::from_millis(20);

/// More than any message that is waited for.
const LONGEST: usize = 256;

/// What became of initiations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    /// The response was authentic, and the session has been confirmed to the responder.
    pub(super) completed: u64,
    /// The answer was a cookie.
    pub(super) challenged: u64,
}

impl Tally {
    pub(super) fn share_completed(&self) -> f64 {
        self.completed as f64 / self.sent as f64
    }

    const fn is_complete(&self) -> bool {
        self.completed + self.challenged >= self.sent
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.completed += other.completed;
        self.challenged += other.challenged;
    }
}

/// The peers, at one socket that sends from the address of each.
pub(super) struct Initiators {
    socket: UdpSocket,
    responder: SocketAddrV4,
    all: Vec<Initiator>,
    /// Who begins the next burst.
    next: usize,
}

impl Initiators {
    /// The peers with these secrets, at these addresses of the socket's host.
    pub(super) fn new(
        socket: UdpSocket,
        responder: SocketAddrV4,
        key: WireGuardKey,
        peers: impl Iterator<Item = (WireGuardSecret, Ipv4Addr)>,
    ) -> Result<Self> {
        socket.set_read_timeout(Some(TICK))?;
        let initiator = |(number, (secret, source)): (u32, (WireGuardSecret, Ipv4Addr))| {
            let tunnel = Tunnel::new(Arc::new(Identity::new(&secret)), key, Config::default());
            Initiator { number, source, tunnel, indices: 0, latest: None, waits: false }
        };
        Ok(Self { socket, responder, all: (0..).zip(peers).map(initiator).collect(), next: 0 })
    }

    /// Each of them once, or a few of them twice.
    pub(super) fn round(&mut self) -> Result<Tally> {
        let mut tally = Tally::default();
        for _ in 0..self.all.len().div_ceil(BURST) {
            tally += self.burst()?;
        }
        Ok(tally)
    }

    /// Some of them at once.
    pub(super) fn burst(&mut self) -> Result<Tally> {
        let count = self.all.len();
        let turn: Vec<usize> = (self.next..).map(|number| number % count).take(BURST.min(count)).collect();
        self.next = (self.next + turn.len()) % count.max(1);
        if let Some(last) = turn.iter().filter_map(|number| self.all[*number].latest).max() {
            thread::sleep((last + APART).saturating_duration_since(Instant::now()));
        }
        // What it takes to make them is over before the first goes, so that the device has them all at once.
        let initiations: Result<Vec<_>> = turn.iter().map(|number| self.all[*number].initiation()).collect();
        let mut tally = Tally::default();
        for (number, initiation) in turn.iter().zip(initiations?) {
            self.all[*number].waits = true;
            send(&self.socket, self.all[*number].source, self.responder, &initiation)?;
            tally.sent += 1;
        }
        let end = Instant::now() + PATIENCE;
        while !tally.is_complete() && Instant::now() < end {
            match self.receive()? {
                Some(Answer::Completed) => tally.completed += 1,
                Some(Answer::Challenged) => tally.challenged += 1,
                None => {}
            }
        }
        let now = Instant::now();
        for number in turn {
            let initiator = &mut self.all[number];
            (initiator.waits, initiator.latest) = (false, Some(now));
        }
        Ok(tally)
    }

    /// What the next datagram answers, if there is one and it is authentic.
    fn receive(&mut self) -> Result<Option<Answer>> {
        let mut buffer = [0; LONGEST];
        let (length, from) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) => return Err(error).context("cannot receive handshakes' answers"),
        };
        let datagram = &buffer[..length];
        let named = message::receiver(datagram).and_then(|index| self.all.get_mut((index >> 8) as usize));
        let Some(initiator) = named.filter(|named| named.waits && from == SocketAddr::V4(self.responder))
        else {
            return Ok(None);
        };
        let answer = initiator.handle(datagram);
        initiator.waits = answer.is_none();
        if answer == Some(Answer::Completed) {
            let confirmation = initiator.transmit(Instant::now()).context("nothing confirms the session")?;
            send(&self.socket, initiator.source, self.responder, &confirmation)?;
        }
        Ok(answer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Completed,
    Challenged,
}

struct Initiator {
    /// The upper 24 bits of its indices.
    number: u32,
    source: Ipv4Addr,
    tunnel: Tunnel,
    /// How many indices it has had, modulo more than it has at a time.
    indices: u8,
    /// When its latest burst was over.
    latest: Option<Instant>,
    /// Whether an initiation has no answer yet.
    waits: bool,
}

impl Initiator {
    fn initiation(&mut self) -> Result<Transmit> {
        let now = Instant::now();
        self.tunnel.look(now);
        self.transmit(now).context("no initiation comes about")
    }

    fn handle(&mut self, datagram: &[u8]) -> Option<Answer> {
        let now = Instant::now();
        match MessageType::of(datagram).ok()? {
            MessageType::Response => {
                self.tunnel.handle_response(&Response::parse(datagram).ok()?, now).ok()?;
                Some(Answer::Completed)
            }
            MessageType::CookieReply => {
                self.tunnel.handle_cookie_reply(&CookieReply::parse(datagram).ok()?, now).ok()?;
                Some(Answer::Challenged)
            }
            MessageType::Initiation | MessageType::Data => None,
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Transmit> {
        let Self { number, tunnel, indices, .. } = self;
        let mut index = || {
            *indices = indices.wrapping_add(1);
            *number << 8 | u32::from(*indices)
        };
        let mut random = |buffer: &mut [u8]| {
            getrandom::fill(buffer).expect("the kernel has randomness since it has booted");
        };
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = Tai64N::from_unix(wall);
        let transmit =
            tunnel.poll_transmit(&mut Context { now, wall, random: &mut random, indices: &mut index });
        iter::from_fn(|| tunnel.poll_event()).for_each(drop);
        transmit
    }
}

/// Sends from an address of this host, whichever the socket has.
fn send(socket: &UdpSocket, source: Ipv4Addr, to: SocketAddrV4, transmit: &Transmit) -> Result<()> {
    let from = in_addr { s_addr: u32::from_ne_bytes(source.octets()) };
    let from = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: in_addr { s_addr: 0 } };
    let datagram = [IoSlice::new(transmit.datagram())];
    let control = [ControlMessage::Ipv4PacketInfo(&from)];
    sendmsg(socket.as_raw_fd(), &datagram, &control, MsgFlags::empty(), Some(&SockaddrIn::from(to)))
        .with_context(|| format!("cannot send from {source}"))?;
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use carrick_wireguard::{Admission, CookieChecker, Load, PresharedKey, message::Initiation};

    use super::*;

    const PEERS: u8 = 40;

    fn secret(number: u8) -> WireGuardSecret {
        WireGuardSecret::from_bytes([100 + number; 32])
    }

    fn key() -> WireGuardKey {
        WireGuardSecret::from_bytes([1; 32]).public()
    }

    /// Whoever answers, and what it has seen.
    struct Device {
        socket: UdpSocket,
        load: Load,
        preshared_key: PresharedKey,
        addresses: BTreeSet<SocketAddr>,
        confirmed: usize,
    }

    impl Device {
        fn new(load: Load) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(TICK)).unwrap();
            Self {
                socket,
                load,
                preshared_key: PresharedKey::default(),
                addresses: BTreeSet::new(),
                confirmed: 0,
            }
        }

        /// What becomes of two rounds of initiations.
        fn two_rounds(&mut self) -> [Tally; 2] {
            let SocketAddr::V4(responder) = self.socket.local_addr().unwrap() else { panic!("IPv4") };
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| self.answer_until(&done));
                let peers = (0..PEERS).map(|number| (secret(number), Ipv4Addr::new(127, 18, 0, 1 + number)));
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let mut initiators = Initiators::new(socket, responder, key(), peers).unwrap();
                let rounds = [(); 2].map(|()| initiators.round());
                done.store(true, Relaxed);
                rounds.map(Result::unwrap)
            })
        }

        fn answer_until(&mut self, done: &AtomicBool) {
            let identity = Arc::new(Identity::new(&WireGuardSecret::from_bytes([1; 32])));
            let config = Config { preshared_key: self.preshared_key.clone(), ..Config::default() };
            let tunnel = |number| Tunnel::new(identity.clone(), secret(number).public(), config.clone());
            let mut tunnels: Vec<Tunnel> = (0..PEERS).map(tunnel).collect();
            let mut checker = CookieChecker::new(identity.public());
            let mut random = |buffer: &mut [u8]| getrandom::fill(buffer).unwrap();
            let (mut index, mut buffer) = (0, [0; LONGEST]);
            // The last confirmations may come after the last round has ended.
            let mut quiet = false;
            while !(done.load(Relaxed) && quiet) {
                let received = self.socket.recv_from(&mut buffer);
                quiet = received.is_err();
                let Ok((length, from)) = received else { continue };
                let (datagram, now) = (&buffer[..length], Instant::now());
                if MessageType::of(datagram).unwrap() == MessageType::Data {
                    self.confirmed += 1;
                    continue;
                }
                self.addresses.insert(from);
                let admission = checker.check(from, datagram, self.load, now, &mut random).unwrap();
                if let Admission::Challenge(reply) = admission {
                    self.socket.send_to(&reply, from).unwrap();
                    continue;
                }
                let identified = identity.identify(Initiation::parse(datagram).unwrap()).unwrap();
                let named = |tunnel: &&mut Tunnel| tunnel.peer() == identified.initiator();
                let tunnel = tunnels.iter_mut().find(named).unwrap();
                let mut indices = || {
                    index += 1;
                    index
                };
                let wall = Tai64N::from_unix(Duration::ZERO);
                let mut context = Context { now, wall, random: &mut random, indices: &mut indices };
                tunnel.handle_initiation(identified, &mut context).unwrap();
                let response = tunnel.poll_transmit(&mut context).unwrap();
                self.socket.send_to(response.datagram(), from).unwrap();
            }
        }
    }

    #[test]
    fn every_initiation_comes_from_its_peers_address_and_is_completed() {
        let mut device = Device::new(Load::Light);
        let [one, two] = device.two_rounds();
        let whole = u64::from(PEERS).div_ceil(BURST as u64) * BURST as u64;
        assert_eq!(one, Tally { sent: whole, completed: whole, challenged: 0 });
        assert_eq!(one, two);
        assert_eq!(device.addresses.len(), usize::from(PEERS));
        assert_eq!(device.confirmed as u64, 2 * whole);
    }

    #[test]
    fn a_cookie_is_shown_from_then_on_and_does_not_count_as_a_handshake() {
        let [one, two] = Device::new(Load::Heavy).two_rounds();
        // Who has a second turn in a round has the cookie then.
        let again = one.sent - u64::from(PEERS);
        assert_eq!((one.challenged, one.completed), (u64::from(PEERS), again));
        assert_eq!((two.challenged, two.completed), (0, two.sent));
    }

    #[test]
    fn a_response_that_is_not_authentic_completes_nothing() {
        let mut device = Device::new(Load::Light);
        device.preshared_key = PresharedKey::from_bytes([9; 32]);
        let [one, _] = device.two_rounds();
        assert_eq!((one.completed, one.challenged), (0, 0));
        assert_eq!(one.share_completed(), 0.0);
        assert_eq!(device.confirmed, 0);
    }
}
