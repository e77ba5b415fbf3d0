//! What is measured.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{Lab, traffic::ping};
use carrick_types::WireGuardSecret;
use clap::ValueEnum;

use super::{
    bed::Bed,
    contender::Contender,
    handshakes,
    load::{Load, Way},
    shards,
};
use crate::spread::Spread;

/// A stream has so long to find its pace.
const WARM_UP: Duration = Duration::from_millis(700);

/// Between two pings.
const PING_PAUSE: Duration = Duration::from_millis(2);

/// How long an answer may take.
const PING_PATIENCE: Duration = Duration::from_secs(1);

/// 500 Mbit/s.
const PACE: u64 = 500_000_000 / 8;

/// The headers of IPv4 and UDP, in bytes.
const HEADERS: usize = 28;

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// One TCP stream
    Tcp1,
    /// Four TCP streams
    Tcp4,
    /// One TCP stream towards the host whose device began
    TcpReverse,
    /// A TCP stream each way at once
    TcpBoth,
    /// Datagrams of 1,200 bytes, without segmentation offload
    Udp1200,
    /// Packets of 64 bytes
    Small,
    /// Round trips without load
    RttIdle,
    /// Round trips beside a TCP stream of 500 Mbit/s
    RttPaced,
    /// Round trips beside a TCP stream as fast as it goes
    RttSaturated,
    /// Resident memory with a peer, after traffic
    Memory1,
    /// Resident memory with 10,000 peers
    Memory10000,
    /// Handshakes that 256 peers begin in bursts of 32, for each second of CPU time that the responder's process takes, kernel included;
    /// each counts once its response is authentic and the initiator has confirmed it
    Handshakes,
    /// What one carrick with one shard, and one with two, seal and send of four flows of datagrams of 1,380 bytes in super-packets, in turns
    /// (one, two, two, one): Gbit/s of these bytes, the device's CPU time, and what its shards, the load and everything else took of the
    /// cores. The peers drop everything unseen, and nothing is opened. Each flow is kept 1,280 datagrams ahead of what has left the device.
    /// A second shard can win only what cores are free
    Shards,
}

/// A figure by its name, which ends in its unit.
pub(super) type Measured = Vec<(&'static str, f64)>;

impl Case {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    /// Whether there is something to measure.
    pub(super) fn fits(self, bed: &Bed) -> bool {
        match self {
            Self::Memory1 | Self::Memory10000 | Self::Handshakes => !bed.devices.is_empty(),
            Self::Shards => bed.is_of(Contender::Carrick),
            Self::Tcp1
            | Self::Tcp4
            | Self::TcpReverse
            | Self::TcpBoth
            | Self::Udp1200
            | Self::Small
            | Self::RttIdle
            | Self::RttPaced
            | Self::RttSaturated => true,
        }
    }

    pub(super) fn measure(self, lab: &mut Lab, bed: &Bed, duration: Duration) -> Result<Measured> {
        let [one, two] = &bed.hosts;
        let (there, back): (Way<'_>, Way<'_>) = ((one, two, bed.addresses[1]), (two, one, bed.addresses[0]));
        match self {
            Self::Tcp1 => stream(bed, &[there], duration),
            Self::Tcp4 => stream(bed, &[there; 4], duration),
            Self::TcpReverse => stream(bed, &[back], duration),
            Self::TcpBoth => stream(bed, &[there, back], duration),
            Self::Udp1200 => {
                let (seconds, bytes, _, cpu) = under(bed, Load::udp(there, 1200)?, duration, thread::sleep)?;
                let mut measured = vec![("delivered, Gbit/s", bytes * 8.0 / seconds / 1e9)];
                measured.extend(cpu.map(|cpu| ("CPU s per GB delivered", cpu / (bytes / 1e9))));
                Ok(measured)
            }
            Self::Small => {
                let load = Load::udp(there, 64 - HEADERS)?;
                let (seconds, _, packets, cpu) = under(bed, load, duration, thread::sleep)?;
                let mut measured = vec![("delivered, packets/s", packets / seconds)];
                measured.extend(cpu.map(|cpu| ("CPU µs per packet delivered", cpu * 1e6 / packets)));
                Ok(measured)
            }
            Self::RttIdle => pings(bed, duration),
            Self::RttPaced => pings_beside(bed, Load::tcp(&[there], Some(PACE))?, duration),
            Self::RttSaturated => pings_beside(bed, Load::tcp(&[there], None)?, duration),
            Self::Memory1 => {
                under(bed, Load::tcp(&[there], None)?, Duration::from_secs(1), thread::sleep)?;
                let sizes = bed.devices.iter().map(|device| Ok(device.rss_bytes()?));
                let largest = sizes.collect::<Result<Vec<_>>>()?.into_iter().max();
                Ok(vec![("resident, MiB", mib(largest.context("no device")?))])
            }
            Self::Memory10000 => {
                let bytes = bed.memory_with(lab, "many", &peers(10_000))?;
                Ok(vec![("resident, MiB", mib(bytes))])
            }
            Self::Handshakes => handshakes::measure(bed, duration),
            Self::Shards => shards::measure(lab, bed, duration),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn stream(bed: &Bed, ways: &[Way<'_>], duration: Duration) -> Result<Measured> {
    let (seconds, bytes, _, cpu) = under(bed, Load::tcp(ways, None)?, duration, thread::sleep)?;
    let mut measured = vec![("Gbit/s", bytes * 8.0 / seconds / 1e9)];
    measured.extend(cpu.map(|cpu| ("CPU s per GB, both ends", cpu / (bytes / 1e9))));
    Ok(measured)
}

/// Seconds, bytes, pieces, and the devices' CPU time, while something else is done.
fn under(
    bed: &Bed,
    load: Load,
    duration: Duration,
    meanwhile: impl FnOnce(Duration),
) -> Result<(f64, f64, f64, Option<f64>)> {
    thread::sleep(WARM_UP);
    let (begin, before, cpu) = (Instant::now(), load.arrived(), bed.cpu_seconds()?);
    meanwhile(duration);
    let (seconds, after, used) = (begin.elapsed().as_secs_f64(), load.arrived(), bed.cpu_seconds()? - cpu);
    let (bytes, pieces) = (after.0 - before.0, after.1 - before.1);
    ensure!(bytes > 0, "nothing arrived");
    Ok((seconds, bytes as f64, pieces as f64, (!bed.devices.is_empty()).then_some(used)))
}

fn pings_beside(bed: &Bed, load: Load, duration: Duration) -> Result<Measured> {
    let mut trips = Ok(Vec::new());
    let (seconds, bytes, ..) = under(bed, load, duration, |duration| trips = pings(bed, duration))?;
    let mut measured = trips?;
    measured.push(("beside, Gbit/s", bytes * 8.0 / seconds / 1e9));
    Ok(measured)
}

fn pings(bed: &Bed, duration: Duration) -> Result<Measured> {
    let (begin, mut trips) = (Instant::now(), Vec::new());
    while begin.elapsed() < duration {
        if let Ok(trip) = ping(&bed.hosts[0], bed.addresses[1], PING_PATIENCE) {
            trips.push(trip.as_secs_f64() * 1e3);
        }
        thread::sleep(PING_PAUSE);
    }
    let spread = Spread::of(&trips).context("no answer to any ping")?;
    Ok(vec![("p50, ms", spread.p50), ("p99, ms", spread.p99)])
}

/// The secret of one of many peers.
pub(super) fn peer_secret(number: u32) -> WireGuardSecret {
    let mut secret = [7; 32];
    secret[8..12].copy_from_slice(&number.to_be_bytes());
    WireGuardSecret::from_bytes(secret)
}

/// The configuration of so many peers, each with a prefix.
fn peers(count: u32) -> String {
    let peer = |number: u32| {
        let key = peer_secret(number).public();
        let address = std::net::Ipv4Addr::from_bits(10 << 24 | number);
        format!("[Peer]\nPublicKey = {key}\nAllowedIPs = {address}/32\nEndpoint = 192.0.2.9:51820\n")
    };
    (0..count).map(peer).collect()
}
