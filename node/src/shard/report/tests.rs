use carrick_dataplane::Counters;

use super::*;
use crate::shard::{
    spawn,
    testing::{drop_packet, forwarder, is_readable, pass_on},
    wake::Wake,
};

#[test]
fn the_first_shard_is_woken_for_what_is_urgent_though_it_sleeps_over_what_is_not() {
    let ((words, heard), mut forwarder) = (reports(), forwarder());
    let wake = Wake::new().unwrap();
    let mut reporter = Reporter::new(words, wake.clone());
    // One report more than there is room for, none of them urgent.
    for _ in 0..=LISTS {
        drop_packet(&mut forwarder);
        reporter.due = Some(Instant::now());
        reporter.report(&mut forwarder);
    }
    assert!(reporter.unsent.is_some());
    assert!(is_readable(&wake), "it is told that there is no room");
    assert!(reporter.due.is_some(), "it is tried again, whether or not more packets come");
    // Nobody has read them, and something urgent comes.
    wake.clear();
    pass_on(&mut forwarder);
    reporter.report(&mut forwarder);
    assert!(is_readable(&wake));
    // There is room again.
    assert_eq!(heard.words.try_iter().count(), LISTS);
    reporter.report(&mut forwarder);
    let last = heard.words.try_iter().last();
    assert!(
        matches!(last, Some(Word::Reports(reports)) if matches!(reports[..], [Report::Message(..)])),
        "nothing is lost"
    );
}

#[test]
fn a_shard_that_panics_says_so() {
    let ((words, mut heard), wake) = (reports(), Wake::new().unwrap());
    let reporter = Reporter::new(words, wake.clone());
    let panicked = spawn(1, move || {
        let _reporter = reporter;
        panic!("as this one is meant to");
    });
    panicked.unwrap().join().unwrap_err();
    assert!(is_readable(&wake));
    assert_eq!(heard.hear(|_| {}).unwrap_err().to_string(), "the thread of a shard panicked");
}

#[test]
fn much_that_is_told_is_heard_a_part_at_a_time_and_in_order() {
    let (words, mut heard) = reports();
    let reports = (0..3 * REPORTS_AT_ONCE as u64 + 1)
        .map(|refused| Report::Dropped(Counters { refused, ..Counters::default() }));
    // Lists of all lengths: of some the first part is heard in one turn, and the rest in the next.
    let (mut all, mut length) = (reports.collect::<Vec<_>>().into_iter(), 1);
    while all.len() > 0 {
        words.try_send(Word::Reports(all.by_ref().take(length).collect())).ok().unwrap();
        length += 7;
    }
    let mut expected = 0;
    for more in [true, true, true, false] {
        let before = expected;
        let hear = |report| {
            assert!(matches!(report, Report::Dropped(Counters { refused, .. }) if refused == expected));
            expected += 1;
        };
        assert_eq!(heard.hear(hear).unwrap(), more);
        assert_eq!(expected - before, if more { REPORTS_AT_ONCE as u64 } else { 1 });
    }
}

#[test]
fn why_a_shard_has_ended_is_found_behind_whatever_is_to_be_heard_before() {
    let (words, mut heard) = reports();
    let reports = || (0..2 * REPORTS_AT_ONCE).map(|_| Report::Dropped(Counters::default())).collect();
    words.try_send(Word::Reports(reports())).ok().unwrap();
    words.try_send(Word::Reports(reports())).ok().unwrap();
    words.try_send(Word::Failed(io::Error::other("a reason"))).ok().unwrap();
    assert!(heard.hear(|_| {}).unwrap());
    assert_eq!(heard.reason().to_string(), "a reason");
    assert_eq!(heard.reason().to_string(), "a shard has ended", "one that had no room to say why");
}
