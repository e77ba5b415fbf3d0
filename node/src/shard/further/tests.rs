use std::{iter, os::fd::AsFd as _};

use carrick_dataplane::{Device, Outside};
use carrick_types::WireGuardSecret;

use super::*;
use crate::{
    readiness::{Readiness, Source},
    tun::Tun,
};

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_first_shard_is_woken_for_what_is_urgent_though_it_sleeps_over_what_is_not() {
    let ((words, heard), mut forwarder) = (reports(), forwarder());
    let wake = crate::shard::wake().unwrap();
    let mut reporter = Reporter::new(words, wake.clone());
    // One report more than there is room for, none of them urgent.
    for _ in 0..=REPORTS {
        drop_packet(&mut forwarder);
        reporter.due = Some(Instant::now());
        reporter.report(&mut forwarder);
    }
    assert!(reporter.unsent.is_some());
    assert!(is_readable(&wake), "it is told that there is no room");
    assert!(reporter.due.is_some(), "it is tried again, whether or not more packets come");
    // Nobody has read them, and something urgent comes.
    wake.read().unwrap();
    pass_on(&mut forwarder);
    reporter.report(&mut forwarder);
    assert!(is_readable(&wake));
    // There is room again.
    assert_eq!(heard.try_iter().count(), REPORTS);
    reporter.report(&mut forwarder);
    let last = heard.try_iter().last();
    assert!(
        matches!(last, Some(Word::Reports(reports)) if matches!(reports[..], [Report::Message(..)])),
        "nothing is lost"
    );
}

#[test]
fn a_shard_ends_when_it_is_asked_to_though_its_deadline_is_over() {
    let deadline = Arc::new(Deadline::default());
    deadline.set(Some(Instant::now()));
    let (words, _heard) = reports();
    let (further, wake) = start(deadline, words);
    further.wake();
    while is_readable(&wake) {
        thread::yield_now();
    }
    let (done, is_done) = channel();
    thread::spawn(move || {
        further.stop();
        let _ = done.send(());
    });
    is_done.recv_timeout(PATIENCE).expect("it has ended");
}

#[test]
fn a_shard_that_panics_says_so() {
    let ((words, heard), wake) = (reports(), crate::shard::wake().unwrap());
    let reporter = Reporter::new(words, wake.clone());
    let panicked = spawn(1, move || {
        let _reporter = reporter;
        panic!("as this one is meant to");
    });
    panicked.unwrap().join().unwrap_err();
    assert!(is_readable(&wake) && matches!(heard.try_recv(), Ok(Word::Failed(_))));
}

fn start(deadline: Arc<Deadline>, words: SyncSender<Word>) -> (Further, Arc<EventFd>) {
    let wake = crate::shard::wake().unwrap();
    let sockets = Arc::new(UdpSockets::bind(0, 0).unwrap());
    let path = Path::new(Arc::new(Tun::without_queues()), iter::empty(), sockets, wake.clone()).unwrap();
    let reporter = Reporter::new(words, crate::shard::wake().unwrap());
    (Further::start(1, forwarder(), path, wake.clone(), deadline, reporter).unwrap(), wake)
}

fn is_readable(wake: &EventFd) -> bool {
    let mut readiness = Readiness::new(1).unwrap();
    readiness.watch(wake.as_fd(), Source::Commands).unwrap();
    readiness.wait(Some(Duration::ZERO)).unwrap().count() > 0
}

/// Has a packet dropped, which is no hurry to report.
fn drop_packet(forwarder: &mut Forwarder) {
    forwarder.handle_packet(&VnetHeader::default(), &[0; 28], Instant::now());
}

/// Has an initiation passed on, which is.
fn pass_on(forwarder: &mut Forwarder) {
    let mut initiation = [0; 148];
    initiation[0] = 1;
    let from = std::net::SocketAddr::from(([192, 0, 2, 1], 51_820));
    forwarder.handle_datagrams(from, &mut initiation, 148, Instant::now(), |_| {});
}

fn forwarder() -> Forwarder {
    Device::new(&WireGuardSecret::from_bytes([1; 32]), Nothing).fork()
}

struct Nothing;

impl Outside for Nothing {
    fn random(&mut self, _: &mut [u8]) {}

    fn wall_clock(&mut self) -> Duration {
        Duration::ZERO
    }
}
