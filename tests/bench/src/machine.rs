//! The machine that figures are of.

use std::{fs, thread};

use serde::Serialize;

/// What figures depend on most.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) avx512: bool,
    pub(crate) kernel: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: field("model name").unwrap_or_else(|| "unknown CPU".to_owned()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            avx512: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "avx512f")),
            kernel: kernel.trim().to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let avx512 = if self.avx512 { " with AVX-512" } else { "" };
        write!(f, "{}{avx512}, {} cores, Linux {}", self.cpu, self.cores, self.kernel)
    }
}
