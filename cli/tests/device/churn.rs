//! Peers that come, go and change their keys while others exchange packets.

use std::{
    env, fs,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use carrick_lab::in_lab_for;

use crate::wireguard::{Device, INSIDE, Implementation, PATIENCE, PORT, Pair, public, run, secret_file};

/// So long it goes on, in seconds, beside other tests. `CARRICK_SECONDS` has it go on longer, by itself, and is strict about who waits.
const SECONDS: u64 = 12;

/// Peers that never answer.
const SILENT: usize = 64;

/// Between two packets of the peer that nobody touches.
const PAUSE: Duration = Duration::from_millis(2);

/// Nobody waits as long for an answer.
const STALL: Duration = Duration::from_secs(1);

/// Beside other tests, whatever waits may wait for a core.
const STALL_BESIDE_OTHERS: Duration = Duration::from_secs(5);

/// What a device may grow by once it has seen every kind of change, in KiB, when nothing waits in it.
const GROWTH: u64 = 2 << 10;

#[test]
fn peers_that_come_and_go_and_change_their_keys_disturb_nobody_and_leave_nothing_behind() {
    let (seconds, stall, answered) = match env::var("CARRICK_SECONDS") {
        Ok(seconds) => (seconds.parse().unwrap(), STALL, 99),
        Err(_) => (SECONDS, STALL_BESIDE_OTHERS, 90),
    };
    in_lab_for(Duration::from_secs(seconds) + 4 * PATIENCE, |lab| {
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
            let sending = scope.spawn(|| send(&socket, &over));
            let crowd = scope.spawn(|| peers.crowd(&over));
            // Also where something fails, or nobody would ever end.
            let ends = Over(&over);
            let mut change = 0;
            let [before, after] = [1, 3].map(|thirds| {
                let until = begin + Duration::from_secs(seconds) * thirds / 3;
                while Instant::now() < until {
                    peers.change(change);
                    change += 1;
                }
                peers.remove_silent();
                resident(&pair.one)
            });
            drop(ends);
            assert!(after < before + GROWTH, "{before} KiB after a third of the time, {after} in the end");
            for thread in [answering, crowd] {
                thread.join().unwrap();
            }
            (sending.join().unwrap(), receiving.join().unwrap())
        });
        let longest = answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest < stall, "no answer for {longest:?}");
        assert!(answers.len() * 100 >= sent * answered, "{} of {sent} were answered", answers.len());
    });
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
    fn change(&self, number: usize) {
        // Multiples of a prime number are as good as dice.
        let (which, what) = (number * 37 % SILENT, number * 101 % 7);
        let (key, prefix) = (self.silent[which].as_str(), format!("10.78.0.{which}/32"));
        let peer = |arguments: &[&str]| self.pair.one.set(&[&["peer", key], arguments].concat());
        if number % 50 == 49 {
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

/// Sends numbered datagrams, and says how many.
fn send(socket: &UdpSocket, over: &AtomicBool) -> usize {
    (0_u32..)
        .take_while(|_| !over.load(Ordering::Relaxed))
        .map(|number| {
            socket.send(&number.to_be_bytes()).unwrap();
            thread::sleep(PAUSE);
        })
        .count()
}

/// Sends back whatever comes.
fn answer(socket: &UdpSocket, over: &AtomicBool) {
    socket.set_read_timeout(Some(STALL)).unwrap();
    let mut buffer = [0; 4];
    while !over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => assert_eq!(socket.send_to(&buffer[..length], from).unwrap(), length),
            Err(error) => assert!(is_timeout(error.kind()), "{error}"),
        }
    }
}

/// When answers came.
fn arrivals(socket: &UdpSocket, over: &AtomicBool) -> Vec<Instant> {
    socket.set_read_timeout(Some(STALL)).unwrap();
    let mut arrivals = Vec::new();
    while !over.load(Ordering::Relaxed) {
        match socket.recv(&mut [0; 4]) {
            Ok(_) => arrivals.push(Instant::now()),
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
