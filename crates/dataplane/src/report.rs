//! What a forwarder tells the device: once of each session or peer, however often it happened, so that what there is to tell is bounded by the
//! number of these.

use std::{collections::BTreeMap, mem, time::Instant};

use carrick_types::WireGuardKey;

use crate::{counters::Counters, endpoint::Endpoint};

/// So many reports are looked through for what says the same, at first.
const MANY: usize = 1024;

/// What a forwarder says to the device.
pub enum Report {
    /// Packets were sealed in a tunnel with a peer.
    Sent {
        /// Whose.
        peer: WireGuardKey,
        /// The slot of the tunnel.
        tunnel: u32,
        /// When.
        at: Instant,
    },
    /// Packets were to be sealed for a peer, and there was no key left.
    Unsealed {
        /// Whose.
        peer: WireGuardKey,
        /// When.
        at: Instant,
    },
    /// Packets wait for keys.
    Wanted {
        /// Whose.
        peer: WireGuardKey,
        /// When the last of them came.
        at: Instant,
    },
    /// Authentic messages came.
    Received {
        /// The index that they named.
        index: u32,
        /// Whether one of them had a packet.
        packets: bool,
        /// Whether one of them had none.
        keepalives: bool,
        /// When.
        at: Instant,
    },
    /// A datagram that is not the forwarder's affair.
    Message(Endpoint, Vec<u8>),
    /// What was dropped since the last report.
    Dropped(Counters),
}

/// What reports may say twice.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Sent(WireGuardKey, u32),
    Unsealed(WireGuardKey),
    Wanted(WireGuardKey),
    Received(u32),
}

impl Report {
    const fn subject(&self) -> Option<Subject> {
        match self {
            Self::Sent { peer, tunnel, .. } => Some(Subject::Sent(*peer, *tunnel)),
            Self::Unsealed { peer, .. } => Some(Subject::Unsealed(*peer)),
            Self::Wanted { peer, .. } => Some(Subject::Wanted(*peer)),
            Self::Received { index, .. } => Some(Subject::Received(*index)),
            Self::Message(..) | Self::Dropped(_) => None,
        }
    }

    /// Also says what an earlier one said of the same.
    const fn merge(&mut self, earlier: &Self) {
        if let Self::Received { packets, keepalives, .. } = self
            && let Self::Received { packets: some, keepalives: none, .. } = earlier
        {
            *packets |= *some;
            *keepalives |= *none;
        }
    }
}

/// What there is to tell.
pub(crate) struct Reports {
    list: Vec<Report>,
    /// The list is looked through when it is this long.
    long: usize,
}

impl Default for Reports {
    fn default() -> Self {
        Self { list: Vec::new(), long: MANY }
    }
}

impl Reports {
    /// One more thing to tell.
    pub(crate) fn push(&mut self, mut report: Report) {
        // Mostly of one flow.
        if let Some(last) = self.list.last_mut()
            && report.subject().is_some_and(|subject| last.subject() == Some(subject))
        {
            report.merge(last);
            *last = report;
            return;
        }
        if self.list.len() >= self.long {
            self.merge();
            // So that each is looked at twice on average.
            self.long = MANY.max(self.list.len() * 2);
        }
        self.list.push(report);
    }

    /// All there is.
    pub(crate) fn take(&mut self) -> Vec<Report> {
        self.merge();
        mem::take(self).list
    }

    /// All there is, for an empty list. What happened twice may be in it twice, if something else happened in between.
    pub(crate) fn swap(&mut self, reports: &mut Vec<Report>) {
        mem::swap(&mut self.list, reports);
    }

    /// Leaves of what says the same the last.
    fn merge(&mut self) {
        // Where each is in `merged`.
        let mut later = BTreeMap::<Subject, usize>::new();
        let mut merged = Vec::<Report>::new();
        for report in self.list.drain(..).rev() {
            let subject = report.subject();
            if let Some(same) =
                subject.as_ref().and_then(|subject| later.get(subject)).and_then(|at| merged.get_mut(*at))
            {
                same.merge(&report);
                continue;
            }
            later.extend(subject.map(|subject| (subject, merged.len())));
            merged.push(report);
        }
        self.list.extend(merged.into_iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use carrick_types::WireGuardSecret;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn begin() -> Instant {
        Instant::now()
    }

    fn peer(n: u8) -> WireGuardKey {
        WireGuardSecret::from_bytes([n; 32]).public()
    }

    /// What is told: of whom, whether packets or keepalives came, and after how many milliseconds.
    fn told(reports: Vec<Report>, begin: Instant) -> Vec<(String, u128)> {
        let since = |at: Instant| at.duration_since(begin).as_millis();
        let say = |report| match report {
            Report::Sent { tunnel, at, .. } => (format!("sent {tunnel}"), since(at)),
            Report::Unsealed { at, .. } => ("unsealed".into(), since(at)),
            Report::Received { index, packets, keepalives, at } => {
                (format!("received {index} {packets} {keepalives}"), since(at))
            }
            Report::Wanted { at, .. } => ("wanted".into(), since(at)),
            Report::Message(..) => ("message".into(), 0),
            Report::Dropped(_) => ("dropped".into(), 0),
        };
        reports.into_iter().map(say).collect()
    }

    #[test]
    fn each_session_is_told_of_once_with_all_that_happened_and_in_order() {
        let (mut reports, begin) = (Reports::default(), begin());
        let place: std::net::SocketAddr = "192.0.2.1:51820".parse().unwrap();
        for n in 0..10_000_u64 {
            let at = begin + Duration::from_millis(n);
            reports.push(Report::Sent { peer: peer(1), tunnel: 7, at });
            reports.push(Report::Received { index: 1, packets: n == 5_000, keepalives: false, at });
            reports.push(Report::Received { index: 2, packets: false, keepalives: n == 0, at });
            if n % 5_000 == 0 {
                reports.push(Report::Message(Endpoint::from(place), Vec::new()));
            }
            reports.push(Report::Sent { peer: peer(2), tunnel: 8, at });
            reports.push(Report::Unsealed { peer: peer(2), at });
            reports.push(Report::Wanted { peer: peer(2), at });
            assert!(reports.list.len() <= MANY, "memory is bounded");
        }
        let expected = [
            ("message", 0),
            ("message", 0),
            ("sent 7", 9_999),
            ("received 1 true false", 9_999),
            ("received 2 false true", 9_999),
            ("sent 8", 9_999),
            ("unsealed", 9_999),
            ("wanted", 9_999),
        ];
        assert_eq!(told(reports.take(), begin), expected.map(|(what, at)| (what.to_owned(), at)));
        assert!(reports.take().is_empty());
    }

    #[test]
    fn more_sessions_than_are_usual_are_told_of_in_time_that_grows_with_them() {
        let (mut reports, at) = (Reports::default(), begin());
        for index in (0..4).flat_map(|_| 0..10_000) {
            reports.push(Report::Received { index, packets: true, keepalives: false, at });
            assert!(reports.list.len() <= 2 * 10_000);
        }
        assert_eq!(reports.take().len(), 10_000);
    }
}
