//! The clients.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use nix::errno::Errno;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Mutex, Semaphore, oneshot},
    time::{Instant as Deadline, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    configure::{About, Question},
    lines::Lines,
    parse::{Operation, Parser},
    print,
    set::Set,
    socket::{Place, UapiError},
};
use crate::shard::{Command, Commands};

/// Clients that are served at once. Others wait.
const CLIENTS: usize = 256;

/// What is read at once, in bytes.
const CHUNK: usize = 4096;

/// An operation is no longer, in bytes: room for half a million prefixes.
const MAX_OPERATION: usize = 32 << 20;

/// How long a client may take to say what it wants, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Full,
    /// Look: somebody else decides about the device.
    ReadOnly,
}

/// A socket that is listened at.
#[derive(Debug)]
pub(crate) struct Server {
    place: Place,
    listener: UnixListener,
}

/// What all clients share.
struct Shared {
    commands: Commands,
    access: Access,
    /// One operation changes the device at a time.
    setting: Mutex<()>,
    clock: Clock,
}

impl Server {
    /// Listens for clients of an interface.
    pub(crate) fn bind(interface: &str) -> Result<Self, UapiError> {
        let (place, listener) = Place::bind(interface)?;
        let listener = UnixListener::from_std(listener).map_err(|error| place.failed(error))?;
        Ok(Self { place, listener })
    }

    /// Serves clients until the socket is removed.
    pub(crate) async fn serve(self, commands: Commands, access: Access) {
        let shared = Shared { commands, access, setting: Mutex::default(), clock: Clock::start() };
        let (shared, room) = (Arc::new(shared), Arc::new(Semaphore::new(CLIENTS)));
        tokio::select! {
            () = self.place.gone() => {}
            () = accept(&self.listener, &shared, &room) => {}
        }
    }
}

async fn accept(listener: &UnixListener, shared: &Arc<Shared>, room: &Arc<Semaphore>) {
    while let Ok(permit) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((client, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let served = shared.serve(client).await;
                    tracing::trace!(?served, "configuration client left");
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a configuration client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Shared {
    /// Answers one operation after the other, in the order in which they came.
    async fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        let (mut lines, mut parser, mut length) = (Lines::default(), Parser::default(), 0);
        let mut chunk = Zeroizing::new(vec![0; CHUNK]);
        let mut deadline = Deadline::now() + PATIENCE;
        loop {
            let count = by(deadline, client.read(&mut chunk)).await?;
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
                // What was cut off is not done.
                let cut = parser.is_busy() || lines.is_cut();
                return if cut {
                    answer(&mut client, &print::outcome(Err(Errno::EPROTO))).await
                } else {
                    Ok(())
                };
            };
            let mut operations = VecDeque::new();
            lines.push(bytes, |line| operations.extend(parser.line(&line)));
            length = if operations.is_empty() { length + count } else { 0 };
            if length > MAX_OPERATION {
                return answer(&mut client, &print::outcome(Err(Errno::EMSGSIZE))).await;
            }
            for operation in operations {
                self.answer(operation, &mut client).await?;
                deadline = Deadline::now() + PATIENCE;
            }
        }
    }

    async fn answer(&self, operation: Result<Operation, Errno>, client: &mut UnixStream) -> io::Result<()> {
        let outcome = match operation {
            Ok(Operation::Get) => self.get(client).await?,
            Ok(Operation::Set(_)) if self.access == Access::ReadOnly => Err(Errno::EPERM),
            Ok(Operation::Set(set)) => self.set(set).await,
            Err(errno) => Err(errno),
        };
        answer(client, &print::outcome(outcome)).await
    }

    async fn get(&self, client: &mut UnixStream) -> io::Result<Result<(), Errno>> {
        let mut question = Question::Device;
        loop {
            let (ask, answered) = oneshot::channel();
            let asked = self.commands.send(Command::Describe(question, ask)).await;
            let (Ok(()), Ok(about)) = (asked, answered.await) else { return Ok(Err(Errno::ENODEV)) };
            match about {
                About::Device { secret, port, fwmark } => {
                    answer(client, &print::device(secret.as_ref(), port, fwmark)).await?;
                    question = Question::Peers(None);
                }
                About::Peers(peers) => {
                    let Some(last) = peers.last() else { return Ok(Ok(())) };
                    question = Question::Peers(Some(last.key));
                    answer(client, &print::peers(&peers, |when| self.clock.since_epoch(when))).await?;
                }
            }
        }
    }

    /// In pieces, so that packets pass in between.
    async fn set(&self, set: Set) -> Result<(), Errno> {
        let _alone = self.setting.lock().await;
        for piece in set.pieces() {
            let (ask, answered) = oneshot::channel();
            self.commands.send(Command::Configure(piece, ask)).await.map_err(|_| Errno::ENODEV)?;
            answered.await.unwrap_or(Err(Errno::ENODEV))?;
        }
        Ok(())
    }
}

async fn answer(client: &mut UnixStream, text: &str) -> io::Result<()> {
    by(Deadline::now() + PATIENCE, client.write_all(text.as_bytes())).await
}

async fn by<T>(deadline: Deadline, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(deadline, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Says when something was by the wall clock. The same moment is always the same, unless the wall clock was set in between.
struct Clock(std::sync::Mutex<(Instant, SystemTime)>);

/// Clocks that are so far apart were not just read one after the other.
const CLOCK_WAS_SET: Duration = Duration::from_millis(500);

impl Clock {
    fn start() -> Self {
        Self(std::sync::Mutex::new((Instant::now(), SystemTime::now())))
    }

    fn since_epoch(&self, when: Instant) -> Duration {
        let mut anchor = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (now, wall) = (Instant::now(), SystemTime::now());
        let expected = anchor.1 + now.saturating_duration_since(anchor.0);
        let apart = expected.duration_since(wall).or_else(|_| wall.duration_since(expected));
        if apart.is_ok_and(|apart| apart > CLOCK_WAS_SET) {
            *anchor = (now, wall);
        }
        let (instant, wall) = *anchor;
        let moment = match when.checked_duration_since(instant) {
            Some(later) => wall.checked_add(later),
            None => wall.checked_sub(instant.saturating_duration_since(when)),
        };
        moment.and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default()
    }
}
