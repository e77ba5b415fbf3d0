//! How long the coordinator's word holds, by this node's own monotonic clock.
//!
//! The coordinator answers each heartbeat. Its answer vouches for the netmap as of the moment the heartbeat was *sent*, so that no
//! delay on the way makes a lease longer, and no wall clock is compared with another.

use std::{collections::VecDeque, time::Instant};

use carrick_types::LeaseProfile;

/// Heartbeats whose answers may still come.
const MAX_UNANSWERED: usize = 64;

/// When the leases of one profile end. `None`: not by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From then on nothing passes.
    pub pass: Option<Instant>,
    /// From then on no new tunnel is made.
    pub admit: Option<Instant>,
}

/// The leases of every peer, which all hang on one thing: when the coordinator last vouched for the netmap.
#[derive(Debug)]
pub struct Leases {
    /// Heartbeats that were sent: number and moment.
    sent: VecDeque<(u64, Instant)>,
    /// The moment as of which the netmap is vouched for.
    vouched: Option<Instant>,
    session: bool,
}

impl Default for Leases {
    fn default() -> Self {
        Self::new()
    }
}

impl Leases {
    /// Nothing was vouched for yet.
    pub const fn new() -> Self {
        Self { sent: VecDeque::new(), vouched: None, session: false }
    }

    /// A session opened, with a netmap that is current as of `since`, when the hello was sent.
    pub fn handle_session(&mut self, since: Instant) {
        self.sent.clear();
        self.session = true;
        self.vouch(since);
    }

    /// The session ended: the coordinator is away.
    pub fn handle_loss(&mut self) {
        self.sent.clear();
        self.session = false;
    }

    /// A heartbeat is being sent.
    pub fn handle_heartbeat(&mut self, sequence: u64, now: Instant) {
        if self.sent.len() == MAX_UNANSWERED {
            self.sent.pop_front();
        }
        self.sent.push_back((sequence, now));
    }

    /// The coordinator answered a heartbeat. One that was never sent, or was answered before, changes nothing.
    pub fn handle_beat(&mut self, sequence: u64) {
        while let Some(&(number, at)) = self.sent.front().filter(|(number, _)| *number <= sequence) {
            self.sent.pop_front();
            if number == sequence {
                self.vouch(at);
            }
        }
    }

    /// When the leases of a profile end, as things stand.
    pub fn deadlines(&self, profile: LeaseProfile) -> Deadlines {
        let Some(vouched) = self.vouched else { return Deadlines { pass: None, admit: None } };
        let end = Some(vouched + profile.lease());
        match profile {
            LeaseProfile::Available if !self.session => Deadlines { pass: None, admit: end },
            LeaseProfile::Available | LeaseProfile::Strict => Deadlines { pass: end, admit: end },
        }
    }

    fn vouch(&mut self, at: Instant) {
        self.vouched = self.vouched.max(Some(at));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn now_for_tests() -> Instant {
        Instant::now()
    }

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_counts_from_the_heartbeat_and_not_from_its_answer() {
        let start = now_for_tests();
        let mut leases = Leases::new();
        leases.handle_session(start);
        leases.handle_heartbeat(1, after(start, 250));
        leases.handle_heartbeat(2, after(start, 500));
        leases.handle_beat(1);
        assert_eq!(leases.deadlines(LeaseProfile::Strict).pass, Some(after(start, 1250)));
        leases.handle_beat(2);
        assert_eq!(leases.deadlines(LeaseProfile::Strict).pass, Some(after(start, 1500)));
        assert_eq!(leases.deadlines(LeaseProfile::Available).admit, Some(after(start, 30_500)));
    }

    #[test]
    fn an_answer_to_nothing_or_given_again_renews_nothing() {
        let start = now_for_tests();
        let mut leases = Leases::new();
        leases.handle_session(start);
        leases.handle_heartbeat(1, after(start, 250));
        leases.handle_heartbeat(2, after(start, 500));
        leases.handle_beat(2);
        let before = leases.deadlines(LeaseProfile::Strict);
        for sequence in [0, 1, 2, 3, u64::MAX] {
            leases.handle_beat(sequence);
            assert_eq!(leases.deadlines(LeaseProfile::Strict), before);
        }
    }

    #[test]
    fn without_a_session_strict_leases_end_and_available_tunnels_stay() {
        let start = now_for_tests();
        let mut leases = Leases::new();
        leases.handle_session(start);
        leases.handle_loss();
        assert_eq!(leases.deadlines(LeaseProfile::Strict).pass, Some(after(start, 1000)));
        let available = leases.deadlines(LeaseProfile::Available);
        assert_eq!(available, Deadlines { pass: None, admit: Some(after(start, 30_000)) });
        leases.handle_heartbeat(1, after(start, 1));
        leases.handle_loss();
        leases.handle_beat(1);
        assert_eq!(
            leases.deadlines(LeaseProfile::Strict).pass,
            Some(after(start, 1000)),
            "of a session that is gone"
        );
    }

    #[test]
    fn a_session_whose_coordinator_no_longer_vouches_lets_every_lease_lapse() {
        let start = now_for_tests();
        let mut leases = Leases::new();
        leases.handle_session(start);
        assert_eq!(leases.deadlines(LeaseProfile::Available).pass, Some(after(start, 30_000)));
    }

    #[test]
    fn unanswered_heartbeats_are_bounded() {
        let start = now_for_tests();
        let mut leases = Leases::new();
        for sequence in 0..1000 {
            leases.handle_heartbeat(sequence, start);
        }
        assert_eq!(leases.sent.len(), MAX_UNANSWERED);
    }
}
