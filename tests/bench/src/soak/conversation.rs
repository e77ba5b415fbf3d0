//! One TCP connection for the whole soak: numbered messages go out at some pace, and must come back as they were.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::Host;

/// Several packets.
const MESSAGE: usize = 16 << 10;
/// Without an answer for so long, the connection counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a pause ends when the soak does.
const TICK: Duration = Duration::from_millis(50);

/// How long it is quiet after a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace(Duration);

impl Pace {
    pub(super) const fn every(pause: Duration) -> Self {
        Self(pause)
    }
}

/// What became of a conversation.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Messages that came back.
    pub(super) messages: u64,
    /// The longest that one took, and when it was sent, from the start.
    pub(super) longest: (Duration, Duration),
    /// Why it ended before the soak did.
    pub(super) lost: Option<String>,
}

/// A conversation that is under way.
pub(super) struct Conversation {
    stop: Arc<AtomicBool>,
    speaker: JoinHandle<Story>,
}

impl Conversation {
    /// Connects when everybody else does, and then sends messages, with each pause of `paces` in its turn, again and again.
    pub(super) fn start(
        from: &Host,
        to: &Host,
        address: SocketAddr,
        paces: Vec<Pace>,
        together: Arc<Barrier>,
    ) -> Result<Self> {
        ensure!(!paces.is_empty(), "a conversation needs a pace");
        let listener = to.tcp_listen(address)?;
        thread::spawn(move || echo(&listener));
        let (stop, from) = (Arc::new(AtomicBool::new(false)), from.clone());
        let flag = stop.clone();
        let speaker = thread::Builder::new().name(format!("to {address}"));
        let speaker = speaker.spawn(move || {
            let mut story = Story::default();
            together.wait();
            story.lost =
                speak(&from, address, &paces, &flag, &mut story).err().map(|error| format!("{error:#}"));
            story
        })?;
        Ok(Self { stop, speaker })
    }

    /// Ends it, and says what became of it.
    pub(super) fn stop(self) -> Story {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| Story { lost: Some("the speaker panicked".to_owned()), ..Story::default() };
        self.speaker.join().unwrap_or_else(panicked)
    }
}

fn speak(from: &Host, to: SocketAddr, paces: &[Pace], stop: &AtomicBool, story: &mut Story) -> Result<()> {
    let started = Instant::now();
    let mut connection = from.tcp_connect(to, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut answer = vec![0; MESSAGE];
    for (number, pace) in (0_u64..).zip(paces.iter().cycle()) {
        let sent = Instant::now();
        let message: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(MESSAGE).collect();
        connection.write_all(&message).with_context(|| format!("message {number} not sent"))?;
        connection.read_exact(&mut answer).with_context(|| format!("message {number} did not come back"))?;
        ensure!(answer == message, "message {number} came back as another");
        story.messages += 1;
        story.longest = story.longest.max((sent.elapsed(), sent - started));
        while sent.elapsed() < pace.0 && !stop.load(Ordering::Relaxed) {
            thread::sleep(TICK.min(pace.0.saturating_sub(sent.elapsed())));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// Sends everything back that comes on one connection, until its end.
fn echo(listener: &TcpListener) {
    let serve = |mut connection: TcpStream| -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut buffer = vec![0; MESSAGE];
        loop {
            let length = connection.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            connection.write_all(&buffer[..length])?;
        }
    };
    // The other end tells the story.
    let _ = listener.accept().and_then(|(connection, _)| serve(connection));
}
