//! What threads have taken of the cores, and everything together.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// The CPU time of each thread so far, in seconds, by its name. Threads of one name are taken together.
pub(super) fn of_threads(process: u32) -> Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let directory = task?.path();
        let read = |file: &str| fs::read_to_string(directory.join(file));
        // One that has ended since it was listed has nothing to tell.
        let (Ok(name), Ok(schedstat)) = (read("comm"), read("schedstat")) else { continue };
        let seconds = on_cpu(&schedstat).context("the kernel does not count threads' CPU time")?;
        *threads.entry(name.trim().to_owned()).or_default() += seconds;
    }
    Ok(threads)
}

/// How many cores are in use on average between two looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    cores: u64,
    used: u64,
    all: u64,
}

impl Machine {
    /// Looks at everything that this machine has done so far.
    pub(super) fn look() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?).context("the kernel does not count CPU time")
    }

    /// The cores that were in use since an earlier look.
    pub(super) fn since(self, earlier: Self) -> f64 {
        let (used, all) = (self.used - earlier.used, self.all - earlier.all);
        self.cores as f64 * used as f64 / all.max(1) as f64
    }

    /// Ticks: user, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen.
    fn parse(stat: &str) -> Option<Self> {
        let cores = stat.lines().filter(|line| line.starts_with("cpu")).count().checked_sub(1)?;
        let ticks = stat.strip_prefix("cpu ")?.lines().next()?.split_whitespace().take(8);
        let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>().ok()?;
        let all = ticks.iter().sum();
        Some(Self { cores: cores as u64, used: all - ticks.get(3)? - ticks.get(4)?, all })
    }
}

/// The first figure: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<f64> {
    let nanoseconds: u64 = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use std::{process, sync::mpsc, thread};

    use super::*;

    #[test]
    fn time_on_a_cpu_is_the_first_of_what_the_kernel_tells() {
        assert_eq!(on_cpu("2500000000 700 12\n"), Some(2.5));
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn the_cores_in_use_are_those_that_neither_idle_nor_wait_for_disks() {
        let look = |stat| Machine::parse(stat).unwrap();
        let before = look(
            "cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 5 0 5 35 5 0 0 0 0 0\ncpu1 5 0 5 35 5 0 0 0 0 0\nintr 1\n",
        );
        let after = look("cpu  40 10 20 110 20 0 0 0 0 0\ncpu0 0 0 0 0\ncpu1 0 0 0 0\nintr 1\n");
        assert_eq!(after.since(before), 1.0);
        assert_eq!(before.since(before), 0.0);
        assert!(Machine::parse("intr 1\n").is_none() && Machine::parse("cpu  1 2\ncpu0 1 2\n").is_none());
    }

    #[test]
    fn a_thread_that_works_is_told_by_its_name() {
        let (done, is_done) = mpsc::channel::<()>();
        let (worked, has_worked) = mpsc::channel();
        let work = move || {
            let mine = || of_threads(process::id()).unwrap().get("busy-bee").copied().unwrap_or_default();
            while mine() < 0.01 {}
            worked.send(()).unwrap();
            let _ = is_done.recv();
        };
        let thread = thread::Builder::new().name("busy-bee".to_owned()).spawn(work).unwrap();
        has_worked.recv().unwrap();
        assert!(of_threads(process::id()).unwrap()["busy-bee"] >= 0.01);
        drop(done);
        thread.join().unwrap();
    }
}
