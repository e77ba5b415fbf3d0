//! Handshakes: how many a device answers for a second of one core's time.
//!
//! The device is the responder of many peers, which this program is. What they cost is not counted, and neither is whether there are
//! more cores than one: the figure is handshakes for each second of CPU time that the device's process took, on all its threads.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    bed::Bed,
    case::{Measured, peer_secret},
    initiators::{Initiators, Tally},
};

/// So many initiate: none does again before all others have.
const PEERS: u32 = 256;

/// Where they are, one address each (RFC 2544): under load devices limit what comes from one address.
const SOURCES: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 16);

/// The least share of initiations that lead to a handshake: what a device spends on others beside is in the figure, too.
///
/// One cookie for each peer is nobody's fault: boringtun has a limit of ten initiations for each peer, too, until its timers run the next time,
/// with cookies of its own. A device may come to that before it is measured, or only then.
const FAIR: f64 = 0.95;

/// Before it is measured, a device is asked for so long at least: what it takes to be too much it counts by the second, and then it sends
/// cookies, which last for the measurement.
const SETTLE: Duration = Duration::from_secs(2);

/// After so long what is not answered yet will not be. boringtun makes a socket for each peer, which takes what comes from others until it is
/// connected; each burst that loses something by that takes a second.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn measure(bed: &Bed, duration: Duration) -> Result<Measured> {
    let (network, length) = SOURCES;
    let responder = bed.responder(&format!("{network}/{length}"), &peers()?)?;
    let socket = bed.hosts[0].udp_bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    let peers = (0..PEERS).map(|number| (peer_secret(number), source(number)));
    let mut initiators = Initiators::new(socket, responder.address, responder.key, peers)?;
    settle(&mut initiators)?;
    let (begin, cpu, mut tally) = (Instant::now(), responder.cpu_seconds()?, Tally::default());
    while begin.elapsed() < duration {
        tally += initiators.burst()?;
    }
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), responder.cpu_seconds()? - cpu);
    responder.terminate()?;
    figures(tally, cpu, seconds)
}

/// Goes on until every peer has the cookie that it needs, if any.
fn settle(initiators: &mut Initiators) -> Result<()> {
    let begin = Instant::now();
    loop {
        let round = initiators.round()?;
        ensure!(round.completed + round.challenged > 0, "not one of {} initiations was answered", round.sent);
        if begin.elapsed() >= SETTLE_LIMIT {
            return is_fair(round, 0);
        }
        if begin.elapsed() >= SETTLE && round.completed == round.sent {
            return Ok(());
        }
    }
}

fn figures(tally: Tally, cpu: f64, seconds: f64) -> Result<Measured> {
    is_fair(tally, PEERS.into())?;
    ensure!(
        cpu > 0.0,
        "too short: the device took no measurable CPU time for {} handshakes",
        tally.completed
    );
    let completed = tally.completed as f64;
    Ok(vec![
        ("of one core, handshakes/s", completed / cpu),
        ("initiations completed, %", tally.share_completed() * 100.0),
        ("initiations answered by cookies, %", tally.challenged as f64 / tally.sent as f64 * 100.0),
        ("as they came, handshakes/s", completed / seconds),
    ])
}

/// So many `cookies` do not matter.
fn is_fair(Tally { sent, completed, challenged }: Tally, cookies: u64) -> Result<()> {
    let counts = sent.saturating_sub(challenged.min(cookies));
    ensure!(
        completed > 0 && completed as f64 >= FAIR * counts as f64,
        "{completed} of {sent} initiations led to a handshake, {challenged} to a cookie"
    );
    Ok(())
}

/// Where one of the peers is.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SOURCES.0.to_bits() + 1 + number)
}

/// The peers, as the responder is configured with them: where they are it learns from their handshakes.
fn peers() -> Result<String> {
    let mut configuration = String::new();
    for number in 0..PEERS {
        let (key, address) = (peer_secret(number).public(), Ipv4Addr::from_bits(10 << 24 | number));
        writeln!(configuration, "[Peer]\nPublicKey = {key}\nAllowedIPs = {address}/32")?;
    }
    Ok(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(tally: Tally, cpu: f64) -> String {
        figures(tally, cpu, 1.0).unwrap_err().to_string()
    }

    #[test]
    fn handshakes_are_counted_for_the_cpu_time_of_the_device_alone() {
        let tally = Tally { sent: 1000, completed: 990, challenged: 4 };
        let measured = figures(tally, 0.5, 2.0).unwrap();
        assert_eq!(measured.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1980.0, 99.0, 0.4, 495.0]);
    }

    #[test]
    fn a_device_that_answers_nothing_or_little_has_no_figure() {
        let silent = Tally { sent: 1000, ..Tally::default() };
        assert_eq!(refusal(silent, 0.5), "0 of 1000 initiations led to a handshake, 0 to a cookie");
        let choosy = Tally { sent: 1000, completed: 600, challenged: 400 };
        assert_eq!(refusal(choosy, 0.5), "600 of 1000 initiations led to a handshake, 400 to a cookie");
        let deaf = Tally { sent: 1000, completed: 900, challenged: 0 };
        assert_eq!(refusal(deaf, 0.5), "900 of 1000 initiations led to a handshake, 0 to a cookie");
        assert!(refusal(Tally::default(), 0.5).starts_with("0 of 0"));
    }

    #[test]
    fn a_cookie_for_each_peer_is_no_fault_but_more_are() {
        let peers = u64::from(PEERS);
        let [once, twice] = [1, 2].map(|times| Tally {
            sent: 16 * peers,
            completed: (16 - times) * peers,
            challenged: times * peers,
        });
        assert!(once.share_completed() < FAIR && figures(once, 0.5, 1.0).is_ok());
        assert!(figures(twice, 0.5, 1.0).is_err());
        assert!(is_fair(once, 0).is_err());
    }

    #[test]
    fn no_figure_is_infinite() {
        let tally = Tally { sent: 10, completed: 10, challenged: 0 };
        assert!(refusal(tally, 0.0).starts_with("too short"));
    }

    #[test]
    fn every_peer_has_an_address_of_its_own_in_the_network_of_sources() {
        let (network, length) = SOURCES;
        let addresses: std::collections::BTreeSet<_> = (0..PEERS).map(source).collect();
        assert_eq!(addresses.len(), PEERS as usize);
        assert!(
            addresses.iter().all(|address| (address.to_bits() ^ network.to_bits()) >> (32 - length) == 0)
        );
    }
}
