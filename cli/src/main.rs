//! The `carrick` binary: the coordinator, the node, and the operator's verbs.
//!
//! Start at [`verb::Verb`]: one file per verb. What a mesh does is decided in the crates below; this one reads arguments,
//! finds the coordinator ([`remote`]), and prints.

mod human;
mod logging;
mod operator_key;
mod output;
mod remote;
mod runtime;
mod scratch;
mod secret;
mod verb;

use std::process::ExitCode;

use clap::Parser;

use crate::verb::Verb;

/// The version with the commit that it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("CARRICK_COMMIT"), ")");

/// One zero-trust network across Kubernetes clusters and plain hosts
#[derive(Debug, Parser)]
#[command(name = "carrick", version = VERSION, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "\
Begin with:
  carrick coordinator                  on one host that every node can reach
  carrick token create --cluster east  there, for each cluster
  carrick join TOKEN --host            on each host that shall join
  carrick status")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(verb::device::arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    match logging::start(cli.verb.log_filter()).and_then(|()| cli.verb.run()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has all that it wanted: `carrick nodes | head -1`.
        Err(error) if error.is::<output::ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            output::report(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_that_answers_has_json() {
        for verb in [
            "status",
            "nodes",
            "nodes east-1",
            "topology",
            "token list",
            "token create --cluster east",
            "revoke east-1",
            "attest east-1",
            "operator show",
            "bundle show",
            "bundle push -f x",
        ] {
            let line = format!("carrick {verb} -o json");
            Cli::try_parse_from(line.split(' ')).expect(&line);
        }
        Cli::try_parse_from(["carrick", "topology", "-o", "dot"]).unwrap();
    }
}
