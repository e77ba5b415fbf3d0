//! Traffic that shows whether anything was lost.

use std::{net::SocketAddr, time::Duration};

use carrick_lab::{mesh::Node, traffic::Beacon};

use super::wait_for;

/// The pace of the datagrams.
const EVERY: Duration = Duration::from_millis(5);

/// A pause that no connection notices. What is counted is datagrams that never came, so a machine that is slow for a moment
/// does not count.
const UNNOTICED: Duration = Duration::from_millis(300);

/// Numbered datagrams between the pods of two nodes: over IPv4 one way, over IPv6 the other.
pub(crate) struct Traffic(pub(crate) [Beacon; 2]);

impl Traffic {
    /// Starts, and waits until it flows both ways.
    pub(crate) fn between(a: &Node, b: &Node) -> Self {
        let start = |from: &Node, to: &Node, family: usize| {
            let address = SocketAddr::new(to.pod_ips[family], 0);
            Beacon::start(&from.pod, &to.pod, address, EVERY, b"carrick-test").unwrap()
        };
        let traffic = Self([start(a, b, 0), start(b, a, 1)]);
        traffic.assert_goes_on();
        traffic
    }

    /// Waits until a datagram that is sent from now on arrives, each way.
    pub(crate) fn assert_goes_on(&self) {
        for beacon in &self.0 {
            let sent = beacon.sent();
            wait_for("another datagram", || newest(beacon).filter(|&number| number > sent));
        }
    }

    /// Waits until it has gone on for so long.
    pub(crate) fn assert_goes_on_for(&self, duration: Duration) {
        let more = u64::try_from(duration.as_millis() / EVERY.as_millis()).unwrap();
        for beacon in &self.0 {
            let goal = beacon.sent() + more;
            wait_for("many more datagrams", || newest(beacon).filter(|&number| number >= goal));
        }
    }

    /// Asserts that since the start no more datagrams in a row were lost than nobody notices, and that it still flows.
    pub(crate) fn assert_unbroken(&self) {
        self.assert_goes_on();
        for beacon in &self.0 {
            let lost = most_lost_in_a_row(beacon);
            assert!(EVERY * lost < UNNOTICED, "{lost} datagrams in a row were lost");
        }
    }
}

fn newest(beacon: &Beacon) -> Option<u64> {
    beacon.arrivals().last().map(|(number, _)| *number)
}

fn most_lost_in_a_row(beacon: &Beacon) -> u32 {
    let mut numbers: Vec<u64> = beacon.arrivals().into_iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    let lost = numbers.windows(2).map(|pair| pair[1].saturating_sub(pair[0] + 1)).max();
    u32::try_from(lost.unwrap_or(0)).unwrap()
}
