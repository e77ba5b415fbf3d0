//! Random schedules of loss, reordering, copies, load and leaping clocks, between two Carricks and between Carrick and boringtun.
//!
//! Whatever happens: what comes out was sent, and comes out once; nothing panics; and once the network is well again, so is the
//! tunnel, within what its timers take.
//!
//! `CARRICK_SCHEDULES` says how many schedules each test runs, `CARRICK_SEED` with which it begins. A failure prints its seed and the
//! shortest schedule that still fails.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod world;

use std::time::Duration;

use carrick_wireguard::{Config, PresharedKey};
use world::{Boring, Carrick, Dice, End, FAIR, Weather, World};

/// How many schedules a test runs unless the environment says otherwise.
const SCHEDULES: u64 = 100;

const STEPS: u64 = 60;

/// What happens in a schedule.
#[derive(Debug, Clone, Copy)]
enum Action {
    /// An end sends so many packets.
    Send(usize, u64),
    /// So many milliseconds pass.
    Pass(u64),
    /// So many seconds pass of which nobody notices before they are over.
    Leap(u64),
    /// The clock of an end goes ahead by so many seconds.
    StepClock(usize, u64),
    /// The network changes.
    Weather(Weather),
    /// An end comes under load, or is relieved.
    Load(usize, bool),
}

impl Action {
    fn random(dice: &mut Dice, clocks: &[usize]) -> Self {
        let end = usize::from(dice.below(2) == 1);
        match dice.below(100) {
            0..40 => Self::Send(end, 1 + dice.below(20)),
            40..70 => Self::Pass(dice.below(3_000)),
            70..82 => Self::Pass(dice.below(100_000)),
            82..85 => Self::Leap(dice.below(250)),
            85..88 => clocks.get(end).map_or(Self::Leap(600), |&end| Self::StepClock(end, dice.below(300))),
            88..96 => Self::Weather(Weather {
                loss: [0, 20, 128, 220][dice.below(4) as usize],
                copies: [0, 30, 200][dice.below(3) as usize],
                latency: [1, 20, 400][dice.below(3) as usize],
                spread: [0, 30, 3_000][dice.below(3) as usize],
            }),
            _ => Self::Load(end, dice.below(3) != 0),
        }
    }
}

/// How long a tunnel may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// To come back once the network is well.
    recovery: Duration,
    /// Between two packets when it is back. A session that ends while the next one waits for cookies makes such a gap.
    gap: Duration,
}

/// Runs a schedule; an error says what broke.
fn run<A: End, B: End>(
    world: &mut World<A, B>,
    schedule: &[Action],
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
            Action::Leap(seconds) => world.leap(Duration::from_secs(seconds))?,
            Action::StepClock(end, seconds) => world.ahead[end] += Duration::from_secs(seconds),
            Action::Weather(weather) => world.weather = weather,
            Action::Load(end, heavy) => world.end(end).set_load(heavy),
        }
    }
    // The ends may stay under load: whoever is where it says it is gets through.
    world.weather = FAIR;
    let healed = world.now;
    let mut arrived = [None; 2];
    while world.now < healed + patience.recovery + Duration::from_secs(30) {
        let numbers = [world.send(0)?, world.send(1)?];
        world.pass(Duration::from_millis(500))?;
        for from in [0, 1] {
            if world.received[1 - from].contains(&numbers[from]) {
                arrived[from] = Some(world.now);
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
    }
    Ok(())
}

/// Runs many schedules, each from its seed.
fn explore<A: End, B: End>(new: impl Fn(u64) -> World<A, B>, clocks: &[usize], patience: Patience) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("CARRICK_SEED").unwrap_or(1);
    for seed in first..first + number("CARRICK_SCHEDULES").unwrap_or(SCHEDULES) {
        let mut dice = Dice(seed);
        let schedule: Vec<Action> = (0..STEPS).map(|_| Action::random(&mut dice, clocks)).collect();
        let run = |schedule: &[Action]| run(&mut new(seed), schedule, patience);
        if run(&schedule).is_err() {
            let shortest = shrink(schedule, |schedule| run(schedule).is_err());
            panic!("seed {seed}: {} after {shortest:#?}", run(&shortest).unwrap_err());
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

/// Silence is noticed after 15 seconds and a bit. Where both are under load, the initiation waits for its cookie for 5 seconds and a bit,
/// and the response for as long again.
const OURS: Patience = Patience { recovery: Duration::from_secs(30), gap: Duration::from_secs(12) };

/// boringtun keeps to no jitter, forgets its initiation when it answers one, and rounds here and there.
const BORINGTUNS: Patience = Patience { recovery: Duration::from_secs(60), gap: Duration::from_secs(30) };

#[test]
fn two_carricks_survive_whatever_the_network_does() {
    let new =
        |seed| World::new(Carrick::new(0, config(seed), seed), Carrick::new(1, config(seed), seed), seed);
    explore(new, &[0, 1], OURS);
}

#[test]
fn carrick_and_boringtun_survive_whatever_the_network_does() {
    let new = |seed| {
        let handshakes = [1, 10, 1000][seed as usize % 3];
        World::new(Carrick::new(0, config(seed), seed), Boring::new(1, preshared(seed), handshakes), seed)
    };
    explore(new, &[0, 0], BORINGTUNS);
}
