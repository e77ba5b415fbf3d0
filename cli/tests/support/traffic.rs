//! Traffic that shows whether anything was lost.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use carrick_lab::{eventually, mesh::Node, traffic::Beacon};

use super::{PATIENCE, wait_for};

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
            let patience = PATIENCE + duration * 2;
            eventually(patience, "many more datagrams", || newest(beacon).filter(|&number| number >= goal))
                .unwrap();
        }
    }

    /// Waits until many more datagrams are sent, whether they arrive or not.
    pub(crate) fn assert_much_is_sent(&self) {
        for beacon in &self.0 {
            let sent = beacon.sent();
            wait_for("more datagrams to be sent", || (beacon.sent() > sent + 50).then_some(()));
        }
    }

    /// When the last datagram arrived of traffic that comes to its end.
    pub(crate) fn last(&self) -> Instant {
        let last = self.0.each_ref().map(|beacon| {
            wait_for("no more datagrams", || {
                let (received, sent) = (beacon.received(), beacon.sent());
                wait_for("more datagrams to be sent", || (beacon.sent() > sent + 50).then_some(()));
                beacon.last_received().filter(|_| beacon.received() == received)
            })
        });
        last[0].max(last[1])
    }

    /// Asserts that every datagram that was sent until now arrives.
    pub(crate) fn assert_nothing_lost(&self) {
        for beacon in &self.0 {
            let sent = beacon.sent();
            let missing = || {
                let arrived: BTreeSet<u64> =
                    beacon.arrivals().into_iter().map(|(number, _)| number).collect();
                (0..sent).filter(|number| !arrived.contains(number)).collect::<Vec<_>>()
            };
            wait_for("the last datagrams", || newest(beacon).filter(|&number| number > sent));
            assert_eq!(missing(), Vec::<u64>::new(), "of {sent} datagrams");
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
