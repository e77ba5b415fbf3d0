//! Every parser that faces a network or a file, as a fuzz target: a function of bytes that must neither panic nor hang.
//!
//! `cargo test -p carrick-fuzz` replays the corpus and a bounded number of mutations of it. A search that coverage guides is the
//! binary's affair, see `main.rs`. Start at [`TARGETS`].

mod mutate;
mod targets;

pub use mutate::Mutations;
pub use targets::TARGETS;

/// One parser.
pub struct Target {
    /// As its folder in `corpus/` is called.
    pub name: &'static str,
    /// Inputs that lead far into it, beside those of the corpus.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Parses, and uses what came out.
    pub run: fn(&[u8]),
}

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
