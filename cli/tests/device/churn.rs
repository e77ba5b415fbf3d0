//! Peers that come, go and change their keys while others exchange packets.

use std::{
    env, fs,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use carrick_lab::in_lab_for;

use crate::wireguard::{Device, INSIDE, Implementation, PATIENCE, PORT, Pair, public, run, secret_file};

/// So long it goes on, in seconds, beside other tests. `CARRICK_SECONDS` has it go on longer, by itself, with more load, and is strict about who waits.
const SECONDS: u64 = 12;

/// Peers that never answer.
const SILENT: usize = 64;

/// The peer that nobody touches gets so many packets at once, where the test is by itself.
const BURST: usize = 8;

/// Bytes of such a packet.
const DATAGRAM: usize = 1200;

/// Between two bursts.
const PAUSE: Duration = Duration::from_millis(2);

/// Nobody waits as long for an answer, or for the next one.
const STALL: Duration = Duration::from_secs(1);

/// Beside other tests, whatever waits may wait for a core.
const STALL_BESIDE_OTHERS: Duration = Duration::from_secs(5);

/// What a device may grow by once it has seen every kind of change, in KiB, when nothing waits in it.
const GROWTH: u64 = 2 << 10;

#[test]
fn peers_that_come_and_go_and_change_their_keys_disturb_nobody_and_leave_nothing_behind() {
    let (seconds, stall, answered, burst) = match env::var("CARRICK_SECONDS") {
        Ok(seconds) => (seconds.parse().unwrap(), STALL, 99, BURST),
        Err(_) => (SECONDS, STALL_BESIDE_OTHERS, 90, 1),
    };
    in_lab_for(Duration::from_secs(seconds) + 4 * PATIENCE, |lab| {
        let mut dice = Dice::new();
        println!("CARRICK_SEED={}", dice.0);
        let pair = Pair::new(lab, [Implementation::ShardedCarrick; 2]);
        pair.point(0, 0);
        pair.assert_pings();
        let peers = Peers::new(&pair);
        let (begin, over) = (Instant::now(), AtomicBool::new(false));
        let echo = pair.two.host.udp_bind(SocketAddr::new(INSIDE[1][0].parse().unwrap(), 0)).unwrap();
        let socket = pair.one.host.udp_bind(SocketAddr::new(INSIDE[0][0].parse().unwrap(), 0)).unwrap();
        socket.connect(echo.local_addr().unwrap()).unwrap();
        let (sent, answers) = thread::scope(|scope| {
            let answering = scope.spawn(|| answer(&echo, &over));
            let receiving = scope.spawn(|| arrivals(&socket, &over));
            let sending = scope.spawn(|| send(&socket, burst, &over));
            let crowd = scope.spawn(|| peers.crowd(&over));
            // Also where something fails, or nobody would ever end.
            let ends = Over(&over);
            let [before, after] = [1, 3].map(|thirds| {
                let until = begin + Duration::from_secs(seconds) * thirds / 3;
                while Instant::now() < until {
                    peers.change(&mut dice);
                }
                peers.remove_silent();
                [&pair.one, &pair.two, &peers.far].map(resident)
            });
            drop(ends);
            println!("KiB after a third of the time: {before:?}, in the end: {after:?}");
            assert!(before.iter().zip(after).all(|(before, after)| after < before + GROWTH));
            for thread in [answering, crowd] {
                thread.join().unwrap();
            }
            (sending.join().unwrap(), receiving.join().unwrap())
        });
        let trip = answers.iter().map(|(number, at)| *at - sent[*number]).max().unwrap();
        let gap = answers.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap();
        println!(
            "{} of {} were answered, after {trip:?} at most, and none for {gap:?} at most",
            answers.len(),
            sent.len()
        );
        assert!(trip < stall && gap < stall);
        assert!(answers.len() * 100 >= sent.len() * answered);
    });
}

/// Random numbers (xorshift, Marsaglia 2003); `CARRICK_SEED` has the same ones come again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let clock = || u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
        let seed = env::var("CARRICK_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap()).max(1);
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}

/// Ends the threads when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The peers of the first device beside the one that nobody touches.
struct Peers<'a> {
    pair: &'a Pair,
    /// Their public keys.
    silent: Vec<String>,
    /// One that answers.
    far: Device,
}

impl<'a> Peers<'a> {
    fn new(pair: &'a Pair) -> Self {
        let host = &pair.one.host;
        run(host, "ip", &["route", "add", "10.78.0.0/15", "dev", &pair.one.interface]);
        let far = Device::start_at(Implementation::Carrick, &pair.two.host, "wg-far", PORT + 1);
        far.up(&["10.79.0.1/32"], "1420");
        run(&far.host, "ip", &["route", "add", "10.77.0.1", "dev", "wg-far", "table", "79"]);
        run(&far.host, "ip", &["rule", "add", "from", "10.79.0.1", "lookup", "79"]);
        let silent = (0..SILENT).map(|_| public(host, &run(host, "wg", &["genkey"]))).collect();
        let peers = Self { pair, silent, far };
        peers.introduce_far(&peers.far.public_key);
        peers
    }

    /// The next change: most are of a silent peer, now and then it is the other one.
    fn change(&self, dice: &mut Dice) {
        let (which, what) = (dice.below(SILENT), dice.below(7));
        let (key, prefix) = (self.silent[which].as_str(), format!("10.78.0.{which}/32"));
        let peer = |arguments: &[&str]| self.pair.one.set(&[&["peer", key], arguments].concat());
        if dice.below(50) == 0 {
            return self.change_far();
        }
        match what {
            0 => peer(&["remove"]),
            1 => {
                let file = secret_file("churn", &run(&self.pair.one.host, "wg", &["genpsk"]));
                peer(&["allowed-ips", &prefix, "preshared-key", file.to_str().unwrap()]);
            }
            2 => peer(&["allowed-ips", &prefix, "endpoint", "192.0.2.2:9", "persistent-keepalive", "1"]),
            // Of a neighbour, to which packets are on their way.
            3 => peer(&["allowed-ips", &format!("10.78.0.{}/32", (which + 1) % SILENT)]),
            _ => peer(&["allowed-ips", &prefix, "endpoint", "192.0.2.2:9"]),
        }
    }

    /// What waits for them goes with them.
    fn remove_silent(&self) {
        let removals =
            self.silent.iter().flat_map(|key| ["peer", key.as_str(), "remove"]).collect::<Vec<_>>();
        self.pair.one.set(&removals);
    }

    /// The peer that answers takes another key, and answers again as soon as it is known by that.
    fn change_far(&self) {
        let before = self.far.show("public-key");
        let key = self.far.change_key();
        self.pair.one.set(&["peer", &before, "remove"]);
        self.introduce_far(&key);
        self.pair.one.eventually_ping("10.79.0.1".parse().unwrap());
    }

    fn introduce_far(&self, key: &str) {
        self.far.set(&["peer", &self.pair.one.public_key, "allowed-ips", "10.77.0.1/32"]);
        let endpoint = format!("192.0.2.2:{}", PORT + 1);
        self.pair.one.set(&["peer", key, "allowed-ips", "10.79.0.1/32", "endpoint", &endpoint]);
    }

    /// Packets to all of them.
    fn crowd(&self, over: &AtomicBool) {
        let sender = self.pair.one.host.udp_bind(SocketAddr::new(INSIDE[0][0].parse().unwrap(), 0)).unwrap();
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let to = format!("10.78.0.{}:9", number * 29 % SILENT);
            // While an address is nobody's there is nobody to tell.
            let _ = sender.send_to(&[0; 100], to);
            thread::sleep(PAUSE);
        }
    }
}

/// Sends numbered datagrams, and says when.
fn send(socket: &UdpSocket, burst: usize, over: &AtomicBool) -> Vec<Instant> {
    let mut sent = Vec::new();
    while !over.load(Ordering::Relaxed) {
        for _ in 0..burst {
            let number = (sent.len() as u64).to_be_bytes();
            sent.push(Instant::now());
            socket.send(&[&number[..], &[0; DATAGRAM - 8]].concat()).unwrap();
        }
        thread::sleep(PAUSE);
    }
    sent
}

/// Sends back whatever comes.
fn answer(socket: &UdpSocket, over: &AtomicBool) {
    socket.set_read_timeout(Some(STALL)).unwrap();
    let mut buffer = [0; DATAGRAM];
    while !over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => assert_eq!(socket.send_to(&buffer[..length], from).unwrap(), length),
            Err(error) => assert!(is_timeout(error.kind()), "{error}"),
        }
    }
}

/// Which answers came when.
fn arrivals(socket: &UdpSocket, over: &AtomicBool) -> Vec<(usize, Instant)> {
    socket.set_read_timeout(Some(STALL)).unwrap();
    let (mut arrivals, mut buffer) = (Vec::new(), [0; DATAGRAM]);
    while !over.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(length, DATAGRAM);
                arrivals.push((u64::from_be_bytes(buffer[..8].try_into().unwrap()) as usize, Instant::now()));
            }
            Err(error) => assert!(is_timeout(error.kind()), "{error}"),
        }
    }
    arrivals
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// KiB.
fn resident(device: &Device) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", device.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
