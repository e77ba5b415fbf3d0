use std::thread;

use super::*;
use crate::shard::{
    report::{Listener, reports},
    testing::{PATIENCE, forwarder, is_readable, path, sockets},
};

#[test]
fn a_shard_ends_with_the_first_one_though_its_deadline_is_over() {
    let deadline = Arc::new(Deadline::default());
    deadline.set(Some(Instant::now()));
    let (further, sockets, _listener) = start(deadline);
    further.wake();
    asleep(&further);
    within_patience(move || drop(further));
    assert_eq!(Arc::strong_count(&sockets), 1, "it has closed its sockets");
}

#[test]
fn a_shard_ends_when_the_first_one_panics_though_nothing_comes_that_would_wake_it() {
    let (further, sockets, _listener) = start(Arc::default());
    further.wake();
    asleep(&further);
    within_patience(move || {
        let panicked = spawn(0, move || {
            let _further = further;
            panic!("as this one is meant to");
        });
        panicked.unwrap().join().unwrap_err();
    });
    assert_eq!(Arc::strong_count(&sockets), 1, "it has closed its sockets");
}

fn start(deadline: Arc<Deadline>) -> (Further, Arc<UdpSockets>, Listener) {
    let (words, listener) = reports();
    let (wake, sockets) = (Wake::new().unwrap(), sockets());
    let reporter = Reporter::new(words, Wake::new().unwrap());
    let path = path(Some(sockets.clone()), wake.clone());
    let further = Further::start(1, forwarder(), path, wake, deadline, reporter).unwrap();
    (further, sockets, listener)
}

/// Waits until the shard has heard that it was woken.
fn asleep(further: &Further) {
    while is_readable(&further.wake) {
        thread::yield_now();
    }
}

fn within_patience(what: impl FnOnce() + Send + 'static) {
    let (done, is_done) = channel();
    thread::spawn(move || {
        what();
        let _ = done.send(());
    });
    is_done.recv_timeout(PATIENCE).expect("it has ended");
}
