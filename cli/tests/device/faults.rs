//! What goes wrong on the way while a stream goes through a tunnel.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use carrick_lab::{eventually, in_lab};

use crate::wireguard::{INSIDE, PATIENCE, Pair, find};

/// So many bytes more are a stream that goes on.
const MORE: u64 = 4 << 20;

#[test]
fn a_stream_goes_on_when_the_kernel_refuses_to_cut_datagrams_up() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let stream = Stream::start(&pair);
        // Something about these datagrams; the next ones may pass.
        for error in ["EINVAL", "EMSGSIZE", "EOPNOTSUPP"] {
            let refused = watch(&pair, Some(error), || stream.assert_goes_on(error));
            assert!(refused.iter().any(|call| call.ends_with("(INJECTED)")), "{error}: {refused:#?}");
            let after = watch(&pair, None, || stream.assert_goes_on("a refusal before"));
            assert!(!after.is_empty(), "none is tried after {error}");
        }
        // The interface cannot do it: a kernel before 6.11 says so of one that makes no checksums, any of one with IPsec behind it.
        let refused = watch(&pair, Some("EIO"), || stream.assert_goes_on("EIO"));
        assert!(refused.iter().any(|call| call.ends_with("(INJECTED)")), "{refused:#?}");
        let after = watch(&pair, None, || stream.assert_goes_on("EIO before"));
        assert!(after.is_empty(), "{after:#?}");
    });
}

#[test]
fn a_stream_goes_on_when_the_way_outside_gets_too_narrow_for_its_datagrams_and_wide_again() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        for family in [0, 1] {
            pair.point(0, family);
            pair.assert_pings();
            let stream = Stream::start(&pair);
            for mtu in [1300, 1500] {
                pair.link.set_mtu(mtu).unwrap();
                stream.assert_goes_on(&format!("an MTU of {mtu} outside"));
            }
        }
    });
}

/// The calls during `work` by which the sender has several datagrams sent at once. `error` is the answer to the first hundred calls that
/// might be such: too many for a stream to get over unless what they were to send is sent otherwise.
fn watch(pair: &Pair, error: Option<&str>, work: impl FnOnce()) -> Vec<String> {
    let program = find("strace").expect("strace is missing: apt-get install strace");
    let mut command = pair.one.host.command(program);
    command.args(["-f", "-p", &pair.one.process.pid().to_string(), "-e", "trace=sendmsg,sendmmsg"]);
    if let Some(error) = error {
        command.args(["-e", &format!("inject=sendmsg,sendmmsg:error={error}:when=1..100")]);
    }
    let strace = pair.one.host.spawn("strace", command).unwrap();
    strace.wait_for_line("attached", PATIENCE).unwrap();
    work();
    strace.terminate(PATIENCE).unwrap();
    assert!(pair.one.process.try_wait().unwrap().is_none(), "{}", pair.one.process.output());
    strace.stderr().lines().filter(|line| line.contains("SOL_UDP")).map(str::to_owned).collect()
}

/// A stream from the first to the second, as fast as it goes, until this is dropped.
struct Stream {
    arrived: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Stream {
    fn start(pair: &Pair) -> Self {
        let address = SocketAddr::new(INSIDE[1][0].parse().unwrap(), 0);
        let listener = pair.two.host.tcp_listen(address).unwrap();
        let mut sender = pair.one.host.tcp_connect(listener.local_addr().unwrap(), PATIENCE).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let (arrived, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let stream = Self { arrived: Arc::clone(&arrived), over: Arc::clone(&over) };
        receiver.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        sender.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        let ended = Arc::clone(&over);
        thread::spawn(move || count(receiver, &arrived, &ended));
        thread::spawn(move || while !over.load(Ordering::Relaxed) && go_on(sender.write(&[0x5a; 65_536])) {});
        stream.assert_goes_on("nothing");
        stream
    }

    fn assert_goes_on(&self, in_spite_of: &str) {
        let goal = self.arrived.load(Ordering::Relaxed) + MORE;
        let goes_on = || (self.arrived.load(Ordering::Relaxed) >= goal).then_some(());
        eventually(PATIENCE, &format!("more of the stream in spite of {in_spite_of}"), goes_on).unwrap();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn count(mut receiver: TcpStream, arrived: &AtomicU64, over: &AtomicBool) {
    let mut buffer = [0; 65_536];
    while !over.load(Ordering::Relaxed) {
        let read = receiver.read(&mut buffer);
        if let Ok(bytes) = read {
            arrived.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        if !go_on(read) {
            break;
        }
    }
}

/// Whether a stream has not ended. One that has no room, or nothing, for now may go on later.
fn go_on(outcome: std::io::Result<usize>) -> bool {
    match outcome {
        Ok(bytes) => bytes > 0,
        Err(error) => {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
        }
    }
}
