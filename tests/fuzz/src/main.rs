//! A search that coverage guides, with libFuzzer, on a stable toolchain:
//!
//! ```console
//! $ export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1"
//! $ CARRICK_FUZZ_TARGET=data cargo run --release -p carrick-fuzz --features libfuzzer \
//!     --target x86_64-unknown-linux-gnu -- -max_total_time=60 tests/fuzz/corpus/data
//! ```
//!
//! `--target` keeps the flags away from build scripts. What is found goes into `corpus/` under a name that says what it is.

#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static RUN: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| {
        let name = std::env::var("CARRICK_FUZZ_TARGET").unwrap_or_default();
        let names = carrick_fuzz::TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
        let target = carrick_fuzz::target(&name);
        target.unwrap_or_else(|| panic!("CARRICK_FUZZ_TARGET is {name:?}, and may be: {names}")).run
    });
    RUN(input);
});

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    eprintln!("build this with `--features libfuzzer`, and with the flags that tests/fuzz/src/main.rs names");
    std::process::exit(2);
}
