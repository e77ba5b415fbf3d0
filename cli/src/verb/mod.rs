//! The verbs, one file each. A new one takes a module, a variant of [`Verb`], and an arm of [`Verb::run`].

mod completions;
mod coordinator;
mod demo;
mod join;
mod log;
mod node;
mod nodes;
mod revoke;
mod status;
mod systemd;
mod token;
mod topology;

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
    Revoke(revoke::Revoke),
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
            Self::Revoke(verb) => verb.run(),
            Self::Log(verb) => verb.run(),
            Self::Completions(verb) => verb.run(),
        }
    }
}
