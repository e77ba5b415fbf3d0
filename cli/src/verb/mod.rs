//! The verbs, one file each. A new one takes a module, a variant of [`Verb`], and an arm of [`Verb::run`].

mod attest;
mod bundle;
mod completions;
mod coordinator;
mod demo;
pub(crate) mod device;
mod join;
mod log;
mod node;
mod nodes;
mod operator;
mod revoke;
mod status;
mod systemd;
mod token;
mod topology;

#[cfg(test)]
pub(crate) use self::bundle::InForce;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Demo(demo::Demo),
    Coordinator(coordinator::Coordinator),
    Token(token::Token),
    Join(join::Join),
    Node(node::Node),
    Device(device::Device),
    Status(status::Status),
    Nodes(nodes::Nodes),
    Topology(topology::Topology),
    Attest(attest::Attest),
    Revoke(revoke::Revoke),
    Operator(operator::Operator),
    Bundle(bundle::Bundle),
    Log(log::Log),
    Completions(completions::Completions),
}

impl Verb {
    /// What is logged unless `CARRICK_LOG` says something.
    pub(crate) fn log_filter(&self) -> &'static str {
        if matches!(self, Self::Device(_)) { device::log_filter() } else { "info" }
    }

    /// Does what was asked for. Verbs start runtimes and threads of their own.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Demo(verb) => verb.run(),
            Self::Coordinator(verb) => verb.run(),
            Self::Token(verb) => verb.run(),
            Self::Join(verb) => verb.run(),
            Self::Node(verb) => verb.run(),
            Self::Device(verb) => verb.run(),
            Self::Status(verb) => verb.run(),
            Self::Nodes(verb) => verb.run(),
            Self::Topology(verb) => verb.run(),
            Self::Attest(verb) => verb.run(),
            Self::Revoke(verb) => verb.run(),
            Self::Operator(verb) => verb.run(),
            Self::Bundle(verb) => verb.run(),
            Self::Log(verb) => verb.run(),
            Self::Completions(verb) => verb.run(),
        }
    }
}
