//! The corpus, and mutations of it.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use carrick_fuzz::{Mutations, TARGETS, Target};

/// Mutations of each target's inputs.
const MUTATIONS: usize = 3_000;

/// However slow the machine is, no parser takes so long for one small input.
const HANG: Duration = Duration::from_secs(5);

#[test]
fn no_parser_panics_or_hangs_on_the_corpus_or_on_what_is_like_it() {
    for target in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{} has neither seeds nor a corpus", target.name);
        inputs.iter().for_each(|input| run(target, input));
        Mutations::of(&inputs).take(MUTATIONS).for_each(|input| run(target, &input));
        run(target, &[]);
        run(target, &vec![0xff; 1 << 17]);
        run(target, "[".repeat(1 << 16).as_bytes());
    }
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target() {
    for folder in fs::read_dir(corpus()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        let name = folder.file_name().into_string().unwrap();
        assert!(carrick_fuzz::target(&name).is_some(), "no target is called {name}");
    }
}

fn run(target: &Target, input: &[u8]) {
    let since = Instant::now();
    let outcome = std::panic::catch_unwind(|| (target.run)(input));
    let took = since.elapsed();
    if outcome.is_err() || took > HANG {
        let file = std::env::temp_dir().join(format!("carrick-fuzz-{}", target.name));
        fs::write(&file, input).unwrap();
        panic!("{} panicked, or took {took:?}; the input is in {}", target.name, file.display());
    }
}

fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    if let Ok(folder) = fs::read_dir(corpus().join(target.name)) {
        let mut files: Vec<_> = folder.map(|file| file.unwrap().path()).collect();
        files.sort();
        inputs.extend(files.iter().map(|file| fs::read(file).unwrap()));
    }
    inputs
}

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}
