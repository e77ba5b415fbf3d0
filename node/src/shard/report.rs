//! What the other shards tell the first one: what went to and fro, and that they have ended.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
    vec,
};

use carrick_dataplane::{Forwarder, Report};

use super::wake::Wake;

/// Lists of reports that may wait for the first shard.
const LISTS: usize = 256;

/// So many reports are heard at once, before packets have their turn.
const REPORTS_AT_ONCE: usize = 64;

/// For so long what went to and fro may be news to the first shard: WireGuard's timers count seconds.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// What a shard tells the first one.
pub(super) enum Word {
    Reports(Vec<Report>),
    Failed(io::Error),
}

/// The channel that all of them tell it by.
pub(super) fn reports() -> (SyncSender<Word>, Listener) {
    let (words, heard) = sync_channel(LISTS);
    (words, Listener { words: heard, unheeded: Vec::new().into_iter() })
}

/// The first shard's end of it.
pub(super) struct Listener {
    words: Receiver<Word>,
    /// The rest of a list.
    unheeded: vec::IntoIter<Report>,
}

impl Listener {
    /// Has reports heeded, in the order in which they came, but only so many that packets do not wait for long. Whether there may be more.
    ///
    /// # Errors
    /// Why a shard has ended.
    pub(super) fn hear(&mut self, mut heed: impl FnMut(Report)) -> io::Result<bool> {
        for _ in 0..REPORTS_AT_ONCE {
            match self.next()? {
                Some(report) => heed(report),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Why a shard has ended that no longer listens.
    pub(super) fn reason(&mut self) -> io::Error {
        loop {
            match self.next() {
                Ok(Some(_)) => {}
                Ok(None) => return io::Error::other("a shard has ended"),
                Err(error) => return error,
            }
        }
    }

    fn next(&mut self) -> io::Result<Option<Report>> {
        loop {
            if let Some(report) = self.unheeded.next() {
                return Ok(Some(report));
            }
            match self.words.try_recv() {
                Ok(Word::Reports(reports)) => self.unheeded = reports.into_iter(),
                Ok(Word::Failed(error)) => return Err(error),
                Err(_) => return Ok(None),
            }
        }
    }
}

/// A shard's way to the first one.
pub(super) struct Reporter {
    words: SyncSender<Word>,
    wake: Wake,
    /// What found no room.
    unsent: Option<Word>,
    /// When something is to be said.
    due: Option<Instant>,
}

impl Reporter {
    pub(super) const fn new(words: SyncSender<Word>, wake: Wake) -> Self {
        Self { words, wake, unsent: None, due: None }
    }

    /// In how long something is to be said, if anything is.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Tells what the forwarder has to tell, if it is time.
    pub(super) fn report(&mut self, forwarder: &mut Forwarder) {
        let (urgent, now) = (forwarder.is_urgent(), Instant::now());
        if !urgent && now < *self.due.get_or_insert(now + REPORT_EVERY) {
            return;
        }
        self.due = None;
        // Without room the forwarder goes on counting.
        if self.unsent.take().is_none_or(|word| self.say(word)) {
            let reports = forwarder.take_reports();
            if !reports.is_empty() {
                self.say(Word::Reports(reports));
            }
        }
        if self.unsent.is_some() {
            self.due = Some(now + REPORT_EVERY);
        }
        // Where there was no room, the first shard may sleep over what is not urgent.
        if urgent || self.unsent.is_some() {
            self.wake.call();
        }
    }

    /// Says that the shard has ended, by itself.
    pub(super) fn fail(&self, error: io::Error) {
        // Where there is no room, the first shard sees that the thread has ended once it has heard all.
        let _ = self.words.try_send(Word::Failed(error));
        self.wake.call();
    }

    fn say(&mut self, word: Word) -> bool {
        match self.words.try_send(word) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => true,
            Err(TrySendError::Full(word)) => {
                self.unsent = Some(word);
                false
            }
        }
    }
}

/// A shard that panics ends the others: nobody else reads its queues and its sockets.
impl Drop for Reporter {
    fn drop(&mut self) {
        if thread::panicking() {
            self.fail(io::Error::other("the thread of a shard panicked"));
        }
    }
}

#[cfg(test)]
mod tests;
