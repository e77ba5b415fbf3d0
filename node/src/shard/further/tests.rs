use std::{os::fd::AsFd as _, thread};

use carrick_dataplane::{Device, Outside};
use carrick_types::WireGuardSecret;

use super::*;
use crate::readiness::{Readiness, Source};

struct Nothing;

impl Outside for Nothing {
    fn random(&mut self, _: &mut [u8]) {}

    fn wall_clock(&mut self) -> Duration {
        Duration::ZERO
    }
}

fn forwarder() -> Forwarder {
    Device::new(&WireGuardSecret::from_bytes([1; 32]), Nothing).fork()
}

/// Has a packet dropped, which is worth a report, and no hurry.
fn drop_packet(forwarder: &mut Forwarder) {
    forwarder.handle_packet(&VnetHeader::default(), &[0; 28], Instant::now());
}

fn is_woken(wake: &EventFd) -> bool {
    let mut readiness = Readiness::new(1).unwrap();
    readiness.watch(wake.as_fd(), Source::Commands).unwrap();
    readiness.wait(Some(Duration::ZERO)).unwrap().count() > 0
}

/// Has the forwarder's news be due at once.
fn report_now(reporter: &mut Reporter, forwarder: &mut Forwarder) {
    reporter.due = Some(Instant::now());
    reporter.report(forwarder);
}

#[test]
fn what_finds_no_room_is_told_later_and_the_first_shard_is_woken_for_it() {
    let (words, listener) = sync_channel(1);
    let wake = super::super::wake().unwrap();
    let mut reporter = Reporter::new(words, wake.clone());
    let mut forwarder = forwarder();
    drop_packet(&mut forwarder);
    report_now(&mut reporter, &mut forwarder);
    assert!(!is_woken(&wake), "it is in no hurry");
    drop_packet(&mut forwarder);
    report_now(&mut reporter, &mut forwarder);
    assert!(is_woken(&wake), "there is no room");
    let dropped = |word| {
        let Word::Reports(reports) = word else { panic!("a failure") };
        reports.iter().filter(|report| matches!(report, Report::Dropped(_))).count()
    };
    assert_eq!(listener.try_recv().map(dropped), Ok(1));
    assert!(reporter.due.is_some(), "it is tried again");
    report_now(&mut reporter, &mut forwarder);
    assert_eq!(listener.try_recv().map(dropped), Ok(1));
}

#[test]
fn a_shard_that_panics_says_so() {
    let (words, listener) = reports();
    let wake = super::super::wake().unwrap();
    let reporter = Reporter::new(words, wake.clone());
    let panics = thread::spawn(move || {
        let _reporter = reporter;
        panic!("as it should");
    });
    assert!(panics.join().is_err());
    assert!(matches!(listener.try_recv(), Ok(Word::Failed(_))) && is_woken(&wake));
}
