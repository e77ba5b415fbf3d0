//! WireGuard devices on two hosts with a cable between them, `carrick device` beside whatever else is at hand, and the cable itself.
//!
//! All of them are up for the whole run. Each case is measured with one after the other before the next case begins, so that what the
//! machine does beside it hits all alike.

mod bed;
mod case;
mod contender;
mod cpu;
mod figures;
mod flows;
mod handshakes;
mod initiators;
mod load;
mod sender;
mod shards;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use carrick_lab::Lab;
use clap::Args;

use self::{bed::Bed, case::Case, contender::Contender};
pub(crate) use self::{case::mib, figures::Figures};
use crate::note;

/// What is measured, and beside what.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long each measurement takes, in seconds
    #[arg(long, visible_alias = "secs", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often each case is measured; the figures are the medians
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Measure only this case; may be repeated
    #[arg(long, value_enum, value_name = "CASE")]
    only: Vec<Case>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The wireguard-go to measure beside [default: the one in PATH]
    #[arg(long, value_name = "FILE", env = "CARRICK_WIREGUARD_GO")]
    wireguard_go: Option<PathBuf>,
    /// The boringtun-cli to measure beside [default: the one in PATH]
    #[arg(long, value_name = "FILE", env = "CARRICK_BORINGTUN")]
    boringtun: Option<PathBuf>,
    /// The gotatun to measure beside [default: the one in PATH]
    #[arg(long, value_name = "FILE", env = "CARRICK_GOTATUN")]
    gotatun: Option<PathBuf>,
}

/// Measures every case.
pub(crate) fn measure(carrick: PathBuf, options: &Options) -> Result<Figures> {
    let named = [
        (Contender::Carrick, Some(carrick)),
        (Contender::WireGuardGo, options.wireguard_go.clone()),
        (Contender::Boringtun, options.boringtun.clone()),
        (Contender::Gotatun, options.gotatun.clone()),
    ];
    let mut lab = Lab::new()?;
    bed::own_run()?;
    let mut beds = vec![Bed::plain(&mut lab)?];
    let (mut missing, mut versions) = (Vec::new(), Vec::new());
    for (contender, program) in named {
        match contender.program(program) {
            Ok(program) => {
                versions.push(program.version());
                beds.push(Bed::new(&mut lab, program)?);
            }
            Err(absent) => {
                note(&format!("!! {absent}"));
                missing.push(absent.to_string());
            }
        }
    }
    ensure!(beds.len() > 1, "nothing to measure");

    let cases: Vec<Case> = if options.only.is_empty() { Case::all().collect() } else { options.only.clone() };
    let mut figures = Figures::new(options.seconds, options.rounds, versions, missing);
    for case in cases {
        for round in 1..=options.rounds {
            for bed in &beds {
                if !case.fits(bed) {
                    continue;
                }
                note(&format!("{case} {round}/{}: {} …", options.rounds, bed.name()));
                match case.measure(&mut lab, bed, Duration::from_secs(options.seconds)) {
                    Ok(measured) => figures.add(case, bed.name(), measured),
                    Err(error) => {
                        note(&format!("!! {case}: {}: {error:#}", bed.name()));
                        figures.fail(case, bed.name(), &error);
                    }
                }
            }
        }
    }
    Ok(figures)
}
