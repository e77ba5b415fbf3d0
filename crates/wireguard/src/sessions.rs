//! The sessions of a tunnel, in the order in which they came.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::{Event, REJECT_AFTER_TIME, ReceiveKey, SendKey};

/// How many sessions are kept to receive with after others have replaced them. Where nothing crosses, it is the one before. Handshakes
/// that cross make two sessions at once, and each side may send with the other's: then there are two before, and one beside.
const PREVIOUS: usize = 3;

/// Both halves of a session.
pub(crate) struct Session {
    pub(crate) send: Arc<SendKey>,
    pub(crate) receive: Arc<ReceiveKey>,
}

impl Session {
    fn release(self, events: &mut VecDeque<Event>) {
        events.push_back(Event::Released(self.receive.index()));
    }
}

/// Whoever still holds a half of a session that is over can do nothing with it.
impl Drop for Session {
    fn drop(&mut self) {
        self.send.close();
        self.receive.close();
    }
}

/// All sessions can receive; the current one sends.
#[derive(Default)]
pub(crate) struct Sessions {
    /// The one that this host has answered and whose first message has not come: before that nothing is sent with it, since the
    /// initiation may be somebody's copy.
    next: Option<Session>,
    current: Option<Session>,
    /// Newest first.
    previous: [Option<Session>; PREVIOUS],
}

impl Sessions {
    /// This host's initiation was answered: the peer has the session already.
    pub(crate) fn begin_as_initiator(&mut self, session: Session, events: &mut VecDeque<Event>) {
        events.push_back(Event::Opening(session.receive.clone()));
        let next = self.next.take();
        self.make_current(session, next, events);
    }

    /// This host has answered an initiation.
    pub(crate) fn begin_as_responder(&mut self, session: Session, events: &mut VecDeque<Event>) {
        events.push_back(Event::Opening(session.receive.clone()));
        if let Some(unconfirmed) = self.next.replace(session) {
            unconfirmed.release(events);
        }
    }

    /// An authentic message has come for a session. Whether it is the first of the one that waited for it.
    pub(crate) fn confirm(&mut self, index: u32, events: &mut VecDeque<Event>) -> bool {
        let Some(session) = self.next.take_if(|next| next.receive.index() == index) else { return false };
        session.send.confirm();
        self.make_current(session, None, events);
        true
    }

    /// Ends the sessions that are too old.
    pub(crate) fn expire(&mut self, now: Instant, events: &mut VecDeque<Event>) {
        for slot in self.slots_mut() {
            let old = slot.take_if(|session| session.receive.born() + REJECT_AFTER_TIME <= now);
            if let Some(session) = old {
                session.release(events);
            }
        }
    }

    /// Ends them all.
    pub(crate) fn clear(&mut self, events: &mut VecDeque<Event>) {
        for session in self.slots_mut().filter_map(Option::take) {
            session.release(events);
        }
    }

    /// When the oldest ends.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.iter().map(|session| session.receive.born() + REJECT_AFTER_TIME).min()
    }

    /// The one that sends.
    pub(crate) fn current(&self) -> Option<&Session> {
        self.current.as_ref()
    }

    /// The one that waits for its first message.
    pub(crate) fn next(&self) -> Option<&Session> {
        self.next.as_ref()
    }

    /// The one with this index.
    pub(crate) fn find(&self, index: u32) -> Option<&Session> {
        self.iter().find(|session| session.receive.index() == index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.next.iter().chain(&self.current).chain(self.previous.iter().flatten())
    }

    fn slots_mut(&mut self) -> impl Iterator<Item = &mut Option<Session>> {
        [&mut self.next, &mut self.current].into_iter().chain(&mut self.previous)
    }

    /// `unconfirmed` is kept since the peer may be about to send with it.
    fn make_current(&mut self, session: Session, unconfirmed: Option<Session>, events: &mut VecDeque<Event>) {
        events.push_back(Event::Sending(session.send.clone()));
        let replaced = self.current.replace(session);
        let previous = std::mem::take(&mut self.previous);
        let mut kept = [unconfirmed, replaced].into_iter().chain(previous).flatten();
        self.previous = std::array::from_fn(|_| kept.next());
        kept.for_each(|session| session.release(events));
    }
}
