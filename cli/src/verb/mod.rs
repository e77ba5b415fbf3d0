//! The verbs, one file each. A new one takes a module, a variant of [`Verb`], and an arm of [`Verb::run`].

mod attest;
mod bundle;
mod completions;
mod coordinator;
mod demo;
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
    /// Does what was asked for. Verbs start runtimes and threads of their own.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Demo(verb) => verb.run(),
            Self::Coordinator(verb) => verb.run(),
            Self::Token(verb) => verb.run(),
            Self::Join(verb) => verb.run(),
            Self::Node(verb) => verb.run(),
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
