//! Whatever a client says, packets pass and the other clients are answered.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use carrick_lab::{in_lab, traffic::ping};

use crate::wireguard::{ATTEMPT, INSIDE, PATIENCE, Pair, run, socket};

#[test]
fn junk_is_answered_and_disturbs_nobody() {
    in_lab(|lab| {
        let pair = connected(lab);
        let before = run(&pair.one.host, "wg", &["showconf", "wg-one"]);
        let key = "07".repeat(32);
        for (said, answer) in [
            ("set=1\nnonsense=1\nlisten_port=7\n\n".to_owned(), "errno=-22\n\n"),
            ("set=1\nlisten_port=7\nlisten_port=70000\n\n".to_owned(), "errno=-22\n\n"),
            (format!("set=1\nreplace_peers=true\nprivate_key={key}x\n\n"), "errno=-22\n\n"),
            (format!("set=1\n{}\n\n", "x".repeat(1 << 20)), "errno=-90\n\n"),
            ("put=1\n\n".to_owned(), "errno=-71\n\n"),
            ("get=1\nset=1\n\n".to_owned(), "errno=-22\n\n"),
            // Cut: nothing of it is done.
            ("set=1\nreplace_peers=true\n".to_owned(), "errno=-71\n\n"),
            ("set=1\nreplace_pe".to_owned(), "errno=-71\n\n"),
            (String::new(), ""),
        ] {
            assert_eq!(ask(said.as_bytes()), answer, "{said:.100}");
        }
        let mut junk: Vec<u8> =
            (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        junk.extend(b"\n\n");
        let answer = ask(&junk);
        assert!(answer.starts_with("errno=-") && answer.ends_with("\n\n"), "{answer}");
        assert_eq!(run(&pair.one.host, "wg", &["showconf", "wg-one"]), before);
        ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap();
    });
}

#[test]
fn several_operations_on_one_connection_are_answered_in_order() {
    in_lab(|lab| {
        let _pair = connected(lab);
        let answers = ask(b"set=1\nfwmark=7\n\nset=1\nfwmark=x\n\nget=1\n\nset=1\nfwmark=0\n\n");
        assert!(answers.starts_with("errno=0\n\nerrno=-22\n\nprivate_key="), "{answers}");
        assert!(answers.contains("\nfwmark=7\n") && answers.ends_with("errno=0\n\nerrno=0\n\n"), "{answers}");
    });
}

#[test]
fn a_mere_update_changes_a_peer_that_is_there_and_makes_none_that_is_not() {
    in_lab(|lab| {
        let _pair = connected(lab);
        let shown = ask(b"get=1\n\n");
        let there = shown.lines().find_map(|line| line.strip_prefix("public_key=")).unwrap();
        let absent = "07".repeat(32);
        let update = |key: &str| {
            format!(
                "public_key={key}\nupdate_only=true\npersistent_keepalive_interval=17\n\
                 replace_allowed_ips=true\nallowed_ip=10.9.0.0/16\n"
            )
        };
        // Between two that are there, in one operation: what is said of it is passed over.
        let said = format!("set=1\n{}{}{}\n", update(there), update(&absent), update(there));
        assert_eq!(ask(said.as_bytes()), "errno=0\n\n");
        let shown = ask(b"get=1\n\n");
        assert_eq!(shown.matches("public_key=").count(), 1, "{shown}");
        assert!(shown.contains(&format!("public_key={there}\n")), "{shown}");
        assert_eq!(shown.matches("allowed_ip=").count(), 1, "{shown}");
        assert!(shown.contains("\nallowed_ip=10.9.0.0/16\n"), "{shown}");
        assert!(shown.contains("\npersistent_keepalive_interval=17\n"), "{shown}");
        // Without it, it is made.
        let said = format!("set=1\n{}\n", update(&absent).replace("update_only=true\n", ""));
        assert_eq!(ask(said.as_bytes()), "errno=0\n\n");
        assert_eq!(ask(b"get=1\n\n").matches("public_key=").count(), 2);
    });
}

#[test]
fn a_hundred_megabytes_hold_nobody_up() {
    in_lab(|lab| {
        let pair = connected(lab);
        let rss = pair.one.process.rss_bytes().unwrap();
        let flood = std::thread::spawn(|| {
            let mut client = UnixStream::connect(socket("wg-one")).unwrap();
            client.write_all(b"set=1\n").unwrap();
            let chunk = [b"allowed_ip=".repeat(10), vec![b'\n']].concat().repeat(1000);
            let mut sent = 0;
            // It is refused before its end.
            while sent < 100 << 20 && client.write_all(&chunk).is_ok() {
                sent += chunk.len();
            }
            sent
        });
        while !flood.is_finished() {
            ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap();
            run(&pair.one.host, "wg", &["show", "wg-one"]);
        }
        let sent = flood.join().unwrap();
        assert!((10 << 20..100 << 20).contains(&sent), "{sent} bytes");
        let grown = pair.one.process.rss_bytes().unwrap().saturating_sub(rss);
        assert!(grown < 32 << 20, "{grown} bytes more");
    });
}

#[test]
fn ten_thousand_peers_are_set_and_shown_while_packets_pass() {
    in_lab(|lab| {
        let pair = connected(lab);
        let peer = |number: u32| {
            let [_, one, two, three] = number.to_be_bytes();
            format!("public_key={:0>64x}\nallowed_ip=10.{one}.{two}.{three}/32\n", 0x0900_0000 + number)
        };
        let configuration: String = (0..10_000).map(|number| peer(number + (200 << 16))).collect();
        let said = format!("set=1\n{configuration}\nget=1\n\n");
        let client = std::thread::spawn(move || ask(said.as_bytes()));
        let mut slowest = Duration::ZERO;
        while !client.is_finished() {
            slowest = slowest.max(ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap());
        }
        let answer = client.join().unwrap();
        assert_eq!(answer.matches("public_key=").count(), 10_001);
        assert!(answer.starts_with("errno=0\n\n") && answer.ends_with("errno=0\n\n"));
        assert!(slowest < Duration::from_millis(500), "a packet took {slowest:?}");
        let begin = Instant::now();
        assert_eq!(ask(b"set=1\nreplace_peers=true\n\n"), "errno=0\n\n");
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert!(!ask(b"get=1\n\n").contains("public_key="));
    });
}

#[test]
fn slow_and_many_clients_hold_nobody_up() {
    in_lab(|lab| {
        let pair = connected(lab);
        let mut slow: Vec<_> = (0..200).map(|_| UnixStream::connect(socket("wg-one")).unwrap()).collect();
        for client in &mut slow {
            client.write_all(b"set=1\nreplace_peers=tr").unwrap();
        }
        let begin = Instant::now();
        run(&pair.one.host, "wg", &["show", "wg-one"]);
        ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        // More than are served at once: whoever says nothing makes room in time.
        let more: Vec<_> = (0..100).map(|_| UnixStream::connect(socket("wg-one")).unwrap()).collect();
        run(&pair.one.host, "wg", &["show", "wg-one"]);
        ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap();
        drop(more);
        let mut answer = String::new();
        slow[0].set_read_timeout(Some(PATIENCE)).unwrap();
        // It was let go long ago.
        slow[0].read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "");
    });
}

fn connected(lab: &mut carrick_lab::Lab) -> Pair {
    let pair = Pair::carrick(lab);
    pair.point(0, 0);
    pair.assert_pings();
    pair
}

/// Everything that is answered until the connection is closed.
fn ask(said: &[u8]) -> String {
    let mut client = UnixStream::connect(socket("wg-one")).unwrap();
    client.write_all(said).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}
