//! The packet path before other threads: in the kernel, all of this would be done in an interrupt.

use nix::errno::Errno;

/// As nice(1) counts.
const NICENESS: i32 = -10;

/// How long the thread wants to run at once, in nanoseconds: the scheduler (EEVDF, since Linux 6.12) lets those run sooner that want to run
/// for a shorter time.
const SLICE: u64 = 100_000;

/// `struct sched_attr`, as far as its first version goes (`sched_setattr(2)`).
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Puts the calling thread before others, as far as the kernel lets it.
pub(crate) fn raise() {
    // Timers of threads like this one may be late by 50 µs.
    let _ = nix::sys::prctl::set_timerslack(1_000);
    // Without CAP_SYS_NICE, what needs no leave.
    if let Err(errno) = set(NICENESS).or_else(|_| set(0)) {
        tracing::debug!(%errno, "the packet path has no priority");
    }
}

fn set(nice: i32) -> Result<(), Errno> {
    let size = u32::try_from(size_of::<Attributes>()).unwrap_or_default();
    let attributes =
        Attributes { size, policy: 0, flags: 0, nice, priority: 0, runtime: SLICE, deadline: 0, period: 0 };
    // SAFETY: the kernel reads `size` bytes of attributes; 0 is the calling thread, and there are no flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_asks_for_a_short_slice_without_any_capability() {
        // In a thread of its own, which takes its priority with it.
        std::thread::spawn(|| assert_eq!(set(0), Ok(()))).join().unwrap();
    }
}
