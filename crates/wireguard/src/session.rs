//! The two halves of a session. Each may be shared with threads that move packets; neither needs the tunnel.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{Cipher, Message, REJECT_AFTER_TIME, ReplayWindow, message::DataHeader};

/// After so many messages the sender asks for a new session (whitepaper, section 6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// No counter from here on is used or taken (whitepaper, section 6.1).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Which side of the handshake this host was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It began.
    Initiator,
    /// It answered.
    Responder,
}

/// Why nothing more is sealed with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    /// It is older than [`REJECT_AFTER_TIME`].
    #[error("the session is too old")]
    Age,
    /// Its counters are used up.
    #[error("the session has sent too many messages")]
    Messages,
    /// The tunnel has let go of it.
    #[error("the session is over")]
    Closed,
    /// Nothing has come that shows that the peer has the session: the initiation that began it may be somebody's copy.
    #[error("the peer may not have the session")]
    Unconfirmed,
}

/// What both halves have.
struct Half {
    cipher: Cipher,
    role: Role,
    born: Instant,
    closed: AtomicBool,
    confirmed: Confirmed,
}

impl Half {
    const fn new(cipher: Cipher, role: Role, born: Instant, confirmed: Confirmed) -> Self {
        Self { cipher, role, born, closed: AtomicBool::new(false), confirmed }
    }

    fn check(&self, now: Instant) -> Result<(), Spent> {
        if self.closed.load(Ordering::Relaxed) {
            Err(Spent::Closed)
        } else if now.saturating_duration_since(self.born) >= REJECT_AFTER_TIME {
            Err(Spent::Age)
        } else {
            Ok(())
        }
    }
}

/// Whether the peer is known to have a session. The halves share it: whoever opens the first message lets whoever answers it seal, on whichever
/// thread.
#[derive(Debug, Clone)]
pub(crate) struct Confirmed(Arc<AtomicBool>);

impl Confirmed {
    /// Whoever was answered has the session; whoever has answered does not know.
    pub(crate) fn new(role: Role) -> Self {
        Self(Arc::new(AtomicBool::new(role == Role::Initiator)))
    }

    /// Nothing else hangs on it: what brings an answer to another thread is the kernel.
    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        // Mostly it is known, and the line of memory that it is in is in every core's cache.
        if !self.get() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// The sending half. Threads share it: each reserves the nonces of a batch with one atomic step.
pub struct SendKey {
    half: Half,
    receiver: u32,
    /// The next nonce.
    counter: AtomicU64,
}

impl SendKey {
    pub(crate) const fn new(
        cipher: Cipher,
        receiver: u32,
        role: Role,
        born: Instant,
        confirmed: Confirmed,
    ) -> Self {
        Self { half: Half::new(cipher, role, born, confirmed), receiver, counter: AtomicU64::new(0) }
    }

    /// Reserves the nonces of so many messages.
    ///
    /// # Errors
    /// [`Spent`] where the key must not seal that many any more.
    pub fn reserve(&self, messages: u64, now: Instant) -> Result<Nonces<'_>, Spent> {
        self.check_session(now)?;
        let end = |from: u64| from.checked_add(messages).filter(|end| *end <= REJECT_AFTER_MESSAGES);
        let from = self.counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end);
        let from = from.map_err(|_| Spent::Messages)?;
        Ok(Nonces { key: self, range: from..from.saturating_add(messages) })
    }

    /// Whether something can be sealed.
    ///
    /// # Errors
    /// [`Spent`] where not.
    pub fn check(&self, now: Instant) -> Result<(), Spent> {
        self.check_session(now)?;
        if self.sent() < REJECT_AFTER_MESSAGES { Ok(()) } else { Err(Spent::Messages) }
    }

    fn check_session(&self, now: Instant) -> Result<(), Spent> {
        self.half.check(now)?;
        if self.is_confirmed() { Ok(()) } else { Err(Spent::Unconfirmed) }
    }

    /// Whether the peer is known to have the session.
    pub fn is_confirmed(&self) -> bool {
        self.half.confirmed.get()
    }

    /// Something authentic has come for the session.
    pub(crate) fn confirm(&self) {
        self.half.confirmed.set();
    }

    /// How many nonces were reserved.
    pub fn sent(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// The index that the messages name.
    pub const fn receiver(&self) -> u32 {
        self.receiver
    }

    /// Which side of the handshake this host was.
    pub const fn role(&self) -> Role {
        self.half.role
    }

    /// When the session began.
    pub const fn born(&self) -> Instant {
        self.half.born
    }

    /// From here on nothing is sealed, whoever still holds the key.
    pub(crate) fn close(&self) {
        self.half.closed.store(true, Ordering::Relaxed);
    }
}

/// Nonces of one key that nobody else has. They seal with that key, once each.
pub struct Nonces<'a> {
    key: &'a SendKey,
    range: Range<u64>,
}

impl Nonces<'_> {
    /// Those that are left.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Seals messages in place, for as many as there are nonces left. Returns how many.
    pub fn seal(&mut self, messages: &mut [Message<'_>]) -> usize {
        let mut sealed = 0;
        for (message, counter) in messages.iter_mut().zip(&mut self.range) {
            message.address(DataHeader { receiver: self.key.receiver, counter });
            sealed += 1;
        }
        if let Some(messages) = messages.get_mut(..sealed) {
            self.key.half.cipher.seal(messages);
        }
        sealed
    }
}

/// What came of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened {
    /// Messages with a packet.
    pub packets: usize,
    /// Messages without.
    pub keepalives: usize,
    /// Messages that were not authentic, not new, or for another session.
    pub refused: usize,
}

/// The receiving half.
///
/// Its replay window is behind a lock that is taken once a batch. Where the index says which thread a datagram goes to, nobody ever
/// waits for it; where it does not, nothing is taken twice all the same.
pub struct ReceiveKey {
    half: Half,
    index: u32,
    window: Mutex<ReplayWindow>,
}

impl ReceiveKey {
    pub(crate) fn new(cipher: Cipher, index: u32, role: Role, born: Instant, confirmed: Confirmed) -> Self {
        Self { half: Half::new(cipher, role, born, confirmed), index, window: Mutex::default() }
    }

    /// Opens messages in place. [`Message::packet`] says which are authentic and new; [`crate::Tunnel::handle_received`] is to be told. The
    /// first authentic one lets the other half seal.
    pub fn open(&self, messages: &mut [Message<'_>], now: Instant) -> Opened {
        let mut opened = Opened::default();
        if self.half.check(now).is_err() {
            messages.iter_mut().for_each(Message::refuse);
            return Opened { refused: messages.len(), ..opened };
        }
        self.half.cipher.open(messages);
        // A panic while it was held leaves the window as whole as before: one step of it is one word.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            let header = message.header();
            let authentic = message.packet().is_some() && header.receiver == self.index;
            if !authentic || !window.accept(header.counter) {
                message.refuse();
            }
            match message.packet() {
                Some([]) => opened.keepalives += 1,
                Some(_) => opened.packets += 1,
                None => opened.refused += 1,
            }
        }
        if opened.packets + opened.keepalives > 0 {
            self.half.confirmed.set();
        }
        opened
    }

    /// The index that the messages name.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Which side of the handshake this host was.
    pub const fn role(&self) -> Role {
        self.half.role
    }

    /// When the session began.
    pub const fn born(&self) -> Instant {
        self.half.born
    }

    /// From here on nothing is opened, whoever still holds the key.
    pub(crate) fn close(&self) {
        self.half.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{mem::offset_of, time::Duration};

    use super::*;
    use crate::{HEADER, dropped::before_and_after};

    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn halves() -> (SendKey, ReceiveKey, Instant) {
        let (now, cipher) = (Instant::now(), || Cipher::new([9; 32]));
        let send = SendKey::new(cipher(), 5, Role::Initiator, now, Confirmed::new(Role::Initiator));
        (send, ReceiveKey::new(cipher(), 5, Role::Responder, now, Confirmed::new(Role::Responder)), now)
    }

    fn sealed(key: &SendKey, now: Instant) -> Vec<u8> {
        let mut buffer = vec![1; HEADER + 32];
        let mut batch = [Message::outgoing(&mut buffer, 16, 1420).unwrap()];
        assert_eq!(key.reserve(1, now).unwrap().seal(&mut batch), 1);
        buffer
    }

    #[test]
    fn of_a_key_that_was_dropped_there_is_nothing_where_it_was() {
        let (send, receive, _) = halves();
        let expected = [[9; 32], [0; 32]];
        assert_eq!(before_and_after(send, offset_of!(SendKey, half.cipher) + Cipher::SECRET), expected);
        assert_eq!(before_and_after(receive, offset_of!(ReceiveKey, half.cipher) + Cipher::SECRET), expected);
    }

    #[test]
    fn threads_that_share_a_key_never_get_the_same_nonce() {
        let (key, _, now) = halves();
        let mut ranges: Vec<Range<u64>> = std::thread::scope(|scope| {
            let reserve = || (1..200).map(|n| key.reserve(n % 7, now).unwrap().range()).collect::<Vec<_>>();
            let threads = [(); 4].map(|()| scope.spawn(reserve));
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .filter(|range| !range.is_empty())
                .collect()
        });
        ranges.sort_unstable_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(key.sent(), ranges.last().unwrap().end);
    }

    #[test]
    fn a_batch_is_sealed_only_as_far_as_its_nonces_go() {
        let (key, _, now) = halves();
        let mut buffers = [[0; OVERHEAD_OF_EMPTY]; 3];
        let mut batch = buffers.each_mut().map(|buffer| Message::outgoing(buffer, 0, 1420).unwrap());
        let mut nonces = key.reserve(2, now).unwrap();
        assert_eq!(nonces.seal(&mut batch), 2);
        assert_eq!(nonces.seal(&mut batch), 0, "each nonce once");
        assert_eq!(batch.map(|message| message.header().counter), [0, 1, 0]);
    }

    const OVERHEAD_OF_EMPTY: usize = crate::OVERHEAD;

    #[test]
    fn counters_end_before_the_limit_and_never_begin_anew() {
        let (send, receive, now) = halves();
        send.reserve(REJECT_AFTER_MESSAGES - 1, now).unwrap();
        assert_eq!(send.reserve(2, now).err(), Some(Spent::Messages));
        assert_eq!(send.reserve(u64::MAX, now).err(), Some(Spent::Messages));
        let mut last = sealed(&send, now);
        assert_eq!(send.reserve(1, now).err(), Some(Spent::Messages));
        assert_eq!(send.check(now), Err(Spent::Messages));
        let mut batch = [Message::incoming(&mut last).unwrap()];
        assert_eq!(receive.open(&mut batch, now).packets, 1);
    }

    #[test]
    fn a_counter_at_the_limit_is_refused_though_it_is_authentic() {
        let (_, receive, now) = halves();
        let mut buffer = [0; 48];
        let mut batch = [Message::outgoing(&mut buffer, 1, 1420).unwrap()];
        batch[0].address(DataHeader { receiver: 5, counter: REJECT_AFTER_MESSAGES });
        Cipher::new([9; 32]).seal(&mut batch);
        let mut batch = [Message::incoming(&mut buffer).unwrap()];
        assert_eq!(receive.open(&mut batch, now), Opened { refused: 1, ..Opened::default() });
        assert_eq!(batch[0].packet(), None);
    }

    #[test]
    fn a_message_is_taken_once_and_only_by_the_session_that_it_names() {
        let (send, receive, now) = halves();
        let datagram = sealed(&send, now);
        for expected in [1, 0] {
            let mut copy = datagram.clone();
            let mut batch = [Message::incoming(&mut copy).unwrap()];
            assert_eq!(receive.open(&mut batch, now).packets, expected);
            assert_eq!(batch[0].packet().is_some(), expected == 1);
        }
        let confirmed = Confirmed::new(Role::Responder);
        let other = ReceiveKey::new(Cipher::new([9; 32]), 6, Role::Responder, now, confirmed);
        let mut copy = datagram.clone();
        assert_eq!(other.open(&mut [Message::incoming(&mut copy).unwrap()], now).refused, 1);
    }

    #[test]
    fn whoever_has_answered_seals_nothing_before_something_authentic_has_come() {
        let (peer, _, now) = halves();
        let (confirmed, cipher) = (Confirmed::new(Role::Responder), || Cipher::new([9; 32]));
        let send = SendKey::new(cipher(), 7, Role::Responder, now, confirmed.clone());
        let receive = ReceiveKey::new(cipher(), 5, Role::Responder, now, confirmed);
        let open = |datagram: &[u8]| {
            receive.open(&mut [Message::incoming(&mut datagram.to_vec()).unwrap()], now).packets
        };
        let datagram = sealed(&peer, now);
        let mut forged = datagram.clone();
        forged[20] ^= 1;
        assert_eq!(open(&forged), 0);
        assert_eq!(
            (send.reserve(1, now).err(), send.check(now)),
            (Some(Spent::Unconfirmed), Err(Spent::Unconfirmed))
        );
        assert_eq!(open(&datagram), 1);
        assert_eq!(send.check(now), Ok(()));
        assert_eq!(send.reserve(1, now).unwrap().range(), 0..1);
    }

    #[test]
    fn a_copy_within_one_batch_is_taken_once() {
        let (send, receive, now) = halves();
        let datagram = sealed(&send, now);
        let mut copies = [datagram.clone(), datagram];
        let mut batch = copies.each_mut().map(|copy| Message::incoming(copy).unwrap());
        assert_eq!(receive.open(&mut batch, now), Opened { packets: 1, keepalives: 0, refused: 1 });
    }

    #[test]
    fn an_old_or_closed_session_seals_and_opens_nothing() {
        let (send, receive, now) = halves();
        let open = |datagram: &[u8], now| {
            let mut copy = datagram.to_vec();
            receive.open(&mut [Message::incoming(&mut copy).unwrap()], now).packets
        };
        let last = now + REJECT_AFTER_TIME - Duration::from_nanos(1);
        let datagram = sealed(&send, last);
        assert_eq!(open(&datagram, now + REJECT_AFTER_TIME), 0);
        assert_eq!(open(&datagram, last), 1);
        assert_eq!(send.reserve(1, now + REJECT_AFTER_TIME).err(), Some(Spent::Age));
        let datagram = sealed(&send, now);
        send.close();
        receive.close();
        assert_eq!(open(&datagram, now), 0);
        assert_eq!((send.reserve(1, now).err(), send.check(now)), (Some(Spent::Closed), Err(Spent::Closed)));
    }
}
