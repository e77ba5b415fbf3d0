use std::any::type_name;
use std::path::Path;
use std::process::{ExitCode, Termination};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::process::Process;
use crate::sandbox;

const POLL: Duration = Duration::from_millis(5);

/// Runs the body of a test in a lab, within two minutes.
///
/// ```no_run
/// #[test]
/// fn a_host_has_a_name() {
///     carrick_lab::in_lab(|lab| assert_eq!(lab.host("east").unwrap().name(), "east"));
/// }
/// ```
///
/// Called by the test, it runs this very test again inside the [sandbox](crate::sandbox); called there, it makes the
/// lab and runs the body. The test's name is the thread's, or, where tests run on the main thread, the function
/// around the closure: so call it from the test itself.
///
/// # Panics
/// When the body fails, does not end, or cannot be run here: a test is never skipped.
#[track_caller]
pub fn in_lab<T: Termination>(body: impl FnOnce(&mut Lab) -> T) {
    in_lab_for(Duration::from_secs(120), body);
}

/// Like [`in_lab`] with another bound.
///
/// # Panics
/// See [`in_lab`].
#[track_caller]
pub fn in_lab_for<T: Termination, F: FnOnce(&mut Lab) -> T>(limit: Duration, body: F) {
    if !sandbox::inside() {
        return run_inside(&test_name::<F>(), limit);
    }
    let mut lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => panic!("cannot make a lab inside the sandbox: {error:?}"),
    };
    assert!(body(&mut lab).report() == ExitCode::SUCCESS, "the body of the test returned an error");
}

/// Waits until `look` gives something.
pub fn eventually<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { awaited: what.to_owned(), limit });
        }
        thread::sleep(POLL);
    }
}

#[track_caller]
fn run_inside(test: &str, limit: Duration) {
    let mut command = match sandbox::command(Path::new("/proc/self/exe"), &[]) {
        Ok(command) => command,
        Err(missing) => panic!("{test} needs a lab: {missing}"),
    };
    command.args([test, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"]);
    let run = match Process::start(test, command) {
        Ok(run) => run,
        Err(error) => panic!("{test} cannot run in a sandbox: {error:?}"),
    };
    match run.wait(limit) {
        Ok(status) if status.success() => {
            let passed = run.stdout().contains("test result: ok. 1 passed;");
            assert!(passed, "no test named {test} ran in the sandbox:\n{}", run.output());
        }
        Ok(status) => panic!("{test} failed in the sandbox ({status}):\n{}", run.output()),
        Err(error) => panic!("{test} in the sandbox: {error}; its output:\n{}", run.output()),
    }
}

/// The path of the test that called: `module::a_claim`.
fn test_name<Body>() -> String {
    match thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => {
            let body = type_name::<Body>();
            let function = body.split("::{{closure}}").next().unwrap_or(body);
            function.split_once("::").map_or(function, |(_crate, path)| path).to_owned()
        }
    }
}
