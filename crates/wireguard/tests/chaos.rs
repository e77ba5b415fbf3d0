//! Random schedules of loss, reordering, copies, replays, load and leaping clocks, between two Carricks and between Carrick and boringtun.
//!
//! Whatever happens: what comes out was sent, and comes out once, as long as its session lives; no counter is used twice; an initiation is
//! answered once, and by an end under load only where it has a cookie; nothing panics; and once the network is well again, so is the
//! tunnel, within what its timers take, and then it loses nothing.
//!
//! Long schedules are mostly weather and time. Brief ones, of which there can be many more, strike while handshakes are under way and just
//! before and after something is due. X25519 is most of what either takes.
//!
//! `CARRICK_SCHEDULES` says how many schedules each test runs, `CARRICK_SEED` with which it begins. A failure prints its seed and the
//! shortest schedule that still fails.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod world;

use std::time::Duration;

use carrick_wireguard::{Config, PresharedKey};
use world::{Boring, Carrick, Dice, End, FAIR, Weather, World};

/// What happens in a schedule.
#[derive(Debug, Clone, Copy)]
enum Action {
    /// An end sends so many packets.
    Send(usize, u64),
    /// So many milliseconds pass.
    Pass(u64),
    /// So many milliseconds pass of which nobody notices before they are over.
    Leap(u64),
    /// The clock of an end goes ahead by so many milliseconds.
    StepClock(usize, u64),
    /// The network changes.
    Weather(Weather),
    /// An end comes under load, or is relieved.
    Load(usize, bool),
    /// So many datagrams that were sent before, whether they came or not, come once more.
    Replay(u64),
    /// An end has sealed so many messages that nobody has seen.
    Skip(usize, u64),
}

impl Action {
    /// Of a long schedule: mostly the network.
    fn of_long(dice: &mut Dice, clocks: &[usize]) -> Self {
        let end = usize::from(dice.below(2) == 1);
        match dice.below(100) {
            0..40 => Self::Send(end, 1 + dice.below(20)),
            40..70 => Self::Pass(dice.below(3_000)),
            70..82 => Self::Pass(dice.below(100_000)),
            82..85 => Self::Leap(1_000 * dice.below(250)),
            85..88 => Self::StepClock(clocks[end], 1_000 * dice.below(300)),
            88..96 => Self::Weather(Weather {
                loss: [0, 20, 128, 220][dice.below(4) as usize],
                copies: [0, 30, 200][dice.below(3) as usize],
                latency: [1, 20, 400][dice.below(3) as usize],
                spread: [0, 30, 3_000][dice.below(3) as usize],
            }),
            _ => Self::Load(end, dice.below(3) != 0),
        }
    }

    /// Of a brief schedule: mostly what happens while handshake messages are under way, and just before and after something is due.
    fn of_brief(dice: &mut Dice, clocks: &[usize]) -> Self {
        let end = usize::from(dice.below(2) == 1);
        let bound = |dice: &mut Dice| {
            let seconds = [5, 5, 10, 15, 15, 90, 115, 120, 120, 165, 180, 180][dice.below(12) as usize];
            1_000 * (seconds - 1) + dice.below(2_000)
        };
        match dice.below(100) {
            0..28 => Self::Send(end, 1 + dice.below(4)),
            28..42 => Self::Pass(dice.below(30)),
            42..50 => Self::Pass(dice.below(6_000)),
            50..58 => Self::Pass(bound(dice)),
            58..63 => Self::Leap(bound(dice)),
            63..69 => Self::StepClock(clocks[end], bound(dice)),
            69..77 => Self::Weather(Weather {
                loss: [0, 60, 128, 255][dice.below(4) as usize],
                copies: [0, 128, 255][dice.below(3) as usize],
                latency: [1, 10, 1_000][dice.below(3) as usize],
                spread: [0, 10, 6_000][dice.below(3) as usize],
            }),
            77..91 => Self::Replay(1 + dice.below(6)),
            91..95 => Self::Skip(clocks[end], [1, 63, 64, 1_000, 8_191][dice.below(5) as usize]),
            _ => Self::Load(end, dice.below(3) != 0),
        }
    }
}

/// What the schedules of a test have in common.
struct Family {
    /// How many a test runs unless the environment says otherwise.
    schedules: u64,
    action: fn(&mut Dice, &[usize]) -> Action,
    /// How many actions: so many, and up to so many more.
    actions: (u64, u64),
    /// What follows them.
    ending: fn(&mut Dice) -> Ending,
}

/// What a schedule ends in: both ends send until it is clear that the tunnel is back and stays.
#[derive(Debug, Clone, Copy)]
struct Ending {
    /// For how long, once it is back.
    stays: Duration,
    /// For how long at least.
    least: Duration,
}

/// Each end then sends two packets, so far apart, and the next two after so long.
const BETWEEN: Duration = Duration::from_millis(7);
const INTERVAL: Duration = Duration::from_secs(1);

const LONG: Family = Family {
    schedules: 70,
    action: Action::of_long,
    actions: (60, 0),
    ending: |_| Ending { stays: Duration::ZERO, least: Duration::from_secs(90) },
};

const BRIEF: Family = Family {
    schedules: 100,
    action: Action::of_brief,
    actions: (5, 7),
    // Now and then for so long that the session ends, and the next one, too.
    ending: |dice| Ending {
        stays: Duration::from_secs([20, 20, 20, 20, 20, 20, 70, 200][dice.below(8) as usize]),
        least: Duration::ZERO,
    },
};

/// How long a tunnel may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// To come back once the network is well.
    recovery: Duration,
    /// Between two packets when it is back.
    gap: Duration,
    /// The same where time was not the same at both ends.
    gap_of_steps: Duration,
    /// More of each for every end that is under load.
    cookies: Duration,
    /// After it is back for so long nothing is lost, unless time was not the same at both ends.
    settling: Option<Duration>,
}

impl Patience {
    /// After this schedule.
    fn after(self, schedule: &[Action]) -> Self {
        let (mut loaded, mut steps) = ([0; 2], false);
        for action in schedule {
            if let Action::Load(end, heavy) = *action {
                loaded[end] = u32::from(heavy);
            }
            // What was under way in a leap is taken though it is old.
            steps |= matches!(action, Action::StepClock(..) | Action::Leap(_));
        }
        let more = self.cookies * loaded.iter().sum();
        let gap = if steps { self.gap_of_steps } else { self.gap };
        let settling = self.settling.filter(|_| !steps);
        Self { recovery: self.recovery + more, gap: gap + more, settling, ..self }
    }
}

/// Runs a schedule; an error says what broke.
fn run<A: End, B: End>(
    world: &mut World<A, B>,
    schedule: &[Action],
    ending: Ending,
    patience: Patience,
) -> Result<(), String> {
    for action in schedule {
        match *action {
            Action::Send(end, packets) => {
                for _ in 0..packets {
                    world.send(end)?;
                }
            }
            Action::Pass(milliseconds) => world.pass(Duration::from_millis(milliseconds))?,
            Action::Leap(milliseconds) => world.leap(Duration::from_millis(milliseconds))?,
            Action::StepClock(end, milliseconds) => world.ahead[end] += Duration::from_millis(milliseconds),
            Action::Weather(weather) => world.weather = weather,
            Action::Load(end, heavy) => world.end(end).set_load(heavy),
            Action::Replay(datagrams) => world.replay(datagrams),
            Action::Skip(end, messages) => {
                let now = world.clock(end);
                world.end(end).skip(messages, now);
            }
        }
    }
    recover(world, ending, patience.after(schedule))
}

/// The network is well again. The ends may stay under load: whoever is where it says it is gets through.
fn recover<A: End, B: End>(
    world: &mut World<A, B>,
    ending: Ending,
    patience: Patience,
) -> Result<(), String> {
    world.weather = FAIR;
    let healed = world.now;
    let mut arrived = [None; 2];
    let mut back = None;
    while back.is_none_or(|back: Duration| world.now < (back + ending.stays).max(healed + ending.least)) {
        // The other one is under way with the old session when the next one begins.
        let numbers = [world.send(0)?, world.send(1)?];
        world.pass(BETWEEN)?;
        let others = [world.send(0)?, world.send(1)?];
        world.pass(INTERVAL - BETWEEN)?;
        let is_settled = |settling| back.is_some_and(|back| world.now > back + settling);
        let loses_nothing = patience.settling.is_some_and(is_settled);
        for from in [0, 1] {
            let came = |numbers: [u32; 2]| world.received[1 - from].contains(&numbers[from]);
            if came(numbers) {
                arrived[from] = Some(world.now);
            }
            if loses_nothing && !(came(numbers) && came(others)) {
                return Err(format!("a packet from {from} is lost"));
            }
            match arrived[from] {
                None if world.now > healed + patience.recovery => {
                    return Err(format!("the tunnel from {from} does not come back"));
                }
                Some(last) if world.now > last + patience.gap => {
                    return Err(format!("the tunnel from {from} does not stay"));
                }
                Some(_) | None => {}
            }
        }
        if let [Some(one), Some(other)] = arrived {
            back.get_or_insert(one.max(other));
        }
    }
    Ok(())
}

/// Runs many schedules of a family, each from its seed. `clocks` are the ends, one for each, of which the clock can step.
fn explore<A: End, B: End>(
    family: &Family,
    new: impl Fn(u64) -> World<A, B>,
    clocks: &[usize],
    patience: Patience,
) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("CARRICK_SEED").unwrap_or(1);
    for seed in first..first + number("CARRICK_SCHEDULES").unwrap_or(family.schedules) {
        let mut dice = Dice(seed);
        let actions = family.actions.0 + dice.below(family.actions.1 + 1);
        let schedule: Vec<Action> = (0..actions).map(|_| (family.action)(&mut dice, clocks)).collect();
        let ending = (family.ending)(&mut dice);
        let run = |schedule: &[Action]| run(&mut new(seed), schedule, ending, patience);
        if run(&schedule).is_err() {
            let shortest = shrink(schedule, |schedule| run(schedule).is_err());
            panic!("seed {seed}: {} after {shortest:?}", run(&shortest).unwrap_err());
        }
    }
}

/// Leaves out of a schedule whatever it fails without.
fn shrink(mut schedule: Vec<Action>, fails: impl Fn(&[Action]) -> bool) -> Vec<Action> {
    let mut length = schedule.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at < schedule.len() {
            let mut shorter = schedule.clone();
            shorter.drain(at..(at + length).min(schedule.len()));
            if fails(&shorter) {
                schedule = shorter;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    schedule
}

fn preshared(seed: u64) -> Option<[u8; 32]> {
    (seed % 2 == 1).then_some([seed as u8; 32])
}

fn config(seed: u64) -> Config {
    let preshared_key = preshared(seed).map(PresharedKey::from_bytes).unwrap_or_default();
    Config { preshared_key, ..Config::default() }
}

/// Silence is noticed after 15 seconds and a bit, and an initiation may have to wait for 5 seconds after another handshake message. Where a
/// clock has stepped, or somebody has leapt with a response in the air, a session may end at one end long before it does at the other,
/// which notices nothing but silence, either.
///
/// Who is under load wants a cookie, for which the handshake waits for 5 seconds and a bit; and again if that cookie was made from a
/// secret that was about to change.
const OURS: Patience = Patience {
    recovery: Duration::from_secs(22),
    gap: Duration::from_secs(8),
    gap_of_steps: Duration::from_secs(18),
    cookies: Duration::from_millis(10_700),
    settling: Some(Duration::from_secs(10)),
};

/// boringtun keeps to no jitter, forgets its initiation when it answers one, and rounds here and there. It takes a late response to the
/// initiation before its last, whose session this end has let go for the last one's, and sends with it until silence is noticed:
/// something is lost though the network is well. It decides itself when it is under load.
const BORINGTUNS: Patience = Patience {
    recovery: Duration::from_secs(60),
    gap: Duration::from_secs(30),
    gap_of_steps: Duration::from_secs(30),
    cookies: Duration::ZERO,
    settling: None,
};

fn two_carricks(seed: u64) -> World<Carrick, Carrick> {
    World::new(Carrick::new(0, config(seed), seed), Carrick::new(1, config(seed), seed), seed)
}

fn carrick_and_boringtun(seed: u64) -> World<Carrick, Boring> {
    let handshakes = [1, 10, 1000][seed as usize % 3];
    World::new(Carrick::new(0, config(seed), seed), Boring::new(1, preshared(seed), handshakes), seed)
}

#[test]
fn two_carricks_survive_whatever_the_network_does() {
    explore(&LONG, two_carricks, &[0, 1], OURS);
}

#[test]
fn carrick_and_boringtun_survive_whatever_the_network_does() {
    explore(&LONG, carrick_and_boringtun, &[0, 0], BORINGTUNS);
}

#[test]
fn two_carricks_survive_whoever_knows_when_to_strike() {
    explore(&BRIEF, two_carricks, &[0, 1], OURS);
}

#[test]
fn carrick_and_boringtun_survive_whoever_knows_when_to_strike() {
    explore(&BRIEF, carrick_and_boringtun, &[0, 0], BORINGTUNS);
}
