//! What a second shard brings: one device with one shard, and one with two, in turns.
//!
//! With both ends of a tunnel and the load on two cores, one shard at each end fills them, and two can win nothing. So there is one device
//! here, whose peers cost next to nothing ([`super::sender`]). What is left is the load: on two cores it takes a share of what the second
//! shard could. Where other programs want the cores, they take theirs, so what they took is told, too.

use std::time::Duration;

use anyhow::{Context as _, Result};
use carrick_lab::Lab;

use super::{
    bed::Bed,
    case::Measured,
    sender::{Sender, Sent},
};
use crate::note;

pub(super) fn measure(lab: &mut Lab, bed: &Bed, duration: Duration) -> Result<Measured> {
    let program = bed.program().context("a cable has no shards")?;
    let mut one = Sender::new(lab, program, 1)?;
    let mut two = Sender::new(lab, program, 2)?;
    // So that what the machine does beside it hits both alike.
    let first = one.measure(duration).map(noted)?;
    let twos = [two.measure(duration).map(noted)?, two.measure(duration).map(noted)?];
    let ones = [first, one.measure(duration).map(noted)?];
    one.terminate()?;
    two.terminate()?;
    Ok(figures(&ones, &twos))
}

fn noted(sent: Sent) -> Sent {
    note(&format!("   {sent:.2?}"));
    sent
}

fn figures(ones: &[Sent], twos: &[Sent]) -> Measured {
    let shard = |number: usize| move |sent: &Sent| sent.shards.get(number).copied().unwrap_or_default();
    let gigabits = |sent: &Sent| sent.gigabits;
    vec![
        ("one, Gbit/s", mean(ones, gigabits)),
        ("one, CPU s per GB, device", mean(ones, |sent| sent.cpu)),
        ("one, cores, its shard", mean(ones, shard(0))),
        ("one, cores, load", mean(ones, |sent| sent.load)),
        ("one, cores, everything else", mean(ones, |sent| sent.others)),
        ("two, Gbit/s", mean(twos, gigabits)),
        ("two, CPU s per GB, device", mean(twos, |sent| sent.cpu)),
        ("two, cores, first shard", mean(twos, shard(0))),
        ("two, cores, second shard", mean(twos, shard(1))),
        ("two, cores, load", mean(twos, |sent| sent.load)),
        ("two, cores, everything else", mean(twos, |sent| sent.others)),
        ("two for one, times", mean(twos, gigabits) / mean(ones, gigabits)),
    ]
}

fn mean(all: &[Sent], of: impl Fn(&Sent) -> f64) -> f64 {
    all.iter().map(of).sum::<f64>() / all.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_what_was_sent_in_all_turns() {
        let sent = |gigabits, shards: &[f64]| Sent {
            gigabits,
            cpu: 0.5,
            shards: shards.to_vec(),
            load: 0.1,
            others: 0.0,
        };
        let measured = figures(
            &[sent(4.0, &[1.0]), sent(6.0, &[0.8])],
            &[sent(7.0, &[0.9, 0.6]), sent(8.0, &[0.9, 0.8])],
        );
        let of = |name| measured.iter().find(|(figure, _)| *figure == name).map(|(_, value)| *value);
        assert_eq!((of("one, Gbit/s"), of("two, Gbit/s")), (Some(5.0), Some(7.5)));
        assert_eq!(of("two for one, times"), Some(1.5));
        assert_eq!((of("one, cores, its shard"), of("two, cores, second shard")), (Some(0.9), Some(0.7)));
    }
}
