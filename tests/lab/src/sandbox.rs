//! Gives a program the privileges that a lab needs, without giving it any power over the machine.
//!
//! The program runs itself again in new mount, network and process-id namespaces; without privileges, in a new user
//! namespace, too, in which it is root. Its end is the end of every process in there.

use std::env;
use std::ffi::{CStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid, mkdir, write};

use crate::error::{Doing as _, Result};
use crate::process::die_with_parent;

/// Set in the environment of a program inside the sandbox.
const MARKER: &str = "CARRICK_LAB";
const TUN: &str = "/dev/net/tun";

/// What this machine withholds from a lab, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// Namespaces cannot be made.
    #[error("namespaces are forbidden to uid {uid} ({reason}): {remedy}")]
    Namespaces {
        /// The user that asked.
        uid: u32,
        /// The kernel's answer.
        reason: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// TUN devices cannot be made.
    #[error("{TUN} is not accessible to uid {uid} ({reason}): {remedy}")]
    Tun {
        /// The user that asked.
        uid: u32,
        /// The kernel's answer.
        reason: io::Error,
        /// What to do.
        remedy: &'static str,
    },
}

/// Whether this program runs inside the sandbox.
pub fn inside() -> bool {
    env::var_os(MARKER).is_some()
}

/// Checks that namespaces and TUN devices can be made.
pub fn preflight() -> Result<(), Missing> {
    namespaces()?;
    OpenOptions::new().read(true).write(true).open(TUN).map(drop).map_err(|reason| {
        let remedy = if reason.kind() == io::ErrorKind::PermissionDenied {
            r#"run as root, or "sudo chmod 666 /dev/net/tun""#
        } else {
            r#""sudo modprobe tun""#
        };
        Missing::Tun { uid: geteuid().as_raw(), reason, remedy }
    })
}

/// Checks that namespaces can be made; a lab without TUN devices needs no more.
pub fn namespaces() -> Result<(), Missing> {
    privilege().map(drop)
}

/// Runs a program, commonly `/proc/self/exe`, inside the sandbox, and waits for its end.
///
/// The descriptors `keep_fds` stay open in it. It dies with the calling thread. Ended by
/// a signal, it gives the exit code of a shell, 128 and the signal's number. While waiting, a signal that was
/// sent to this process to end it goes on to the program; one from the terminal reaches the program by itself.
pub fn reexec(
    program: &Path,
    args: &[OsString],
    env: &[(OsString, OsString)],
    keep_fds: &[RawFd],
) -> Result<ExitStatus> {
    let run = || format!("run {} in a sandbox", program.display());
    let mut command = command(program, keep_fds).map_err(io::Error::other).doing(run)?;
    command.args(args).envs(env.iter().map(|(key, value)| (key, value)));
    let forwarding = Forwarding::start().doing(run)?;
    let mut child = command.spawn().doing(run)?;
    forwarding.to(child.id());
    child.wait().doing(run)
}

/// A command whose child enters the sandbox, and dies with the thread that spawns it.
pub(crate) fn command(program: &Path, keep_fds: &[RawFd]) -> Result<Command, Missing> {
    let privilege = privilege()?;
    let entry = Entry::new(privilege);
    let (keep, parent) = (keep_fds.to_vec(), std::process::id());
    let mut command = Command::new(program);
    command.env(MARKER, "1");
    // SAFETY: the closure only makes system calls, neither allocating nor locking.
    unsafe {
        command.pre_exec(move || {
            die_with_parent(parent)?;
            entry.enter()?;
            for fd in &keep {
                // SAFETY: the caller of `reexec` keeps the descriptor open; if not, the call fails with EBADF.
                let fd = BorrowedFd::borrow_raw(*fd);
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    Ok(command)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Privilege {
    /// May make namespaces as it is.
    Own,
    /// May do so in a new user namespace.
    UserNamespace,
}

fn privilege() -> Result<Privilege, Missing> {
    if try_entry(Privilege::Own).is_ok() {
        return Ok(Privilege::Own);
    }
    match try_entry(Privilege::UserNamespace) {
        Ok(()) => Ok(Privilege::UserNamespace),
        Err(reason) => Err(Missing::Namespaces { uid: geteuid().as_raw(), reason, remedy: remedy() }),
    }
}

/// Enters a sandbox in a child that runs no program.
fn try_entry(privilege: Privilege) -> io::Result<()> {
    const ENTERED: Errno = Errno::ECANCELED;
    let entry = Entry::new(privilege);
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: the closure only makes system calls, neither allocating nor locking.
    unsafe {
        command.pre_exec(move || {
            entry.enter()?;
            Err(ENTERED.into())
        });
    }
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(ENTERED as i32) => Ok(()),
        Err(error) => Err(error),
        Ok(mut child) => child.wait().and(Err(io::Error::other("the trial ran a program"))),
    }
}

fn remedy() -> &'static str {
    let is = |key: &str, value: &str| fs::read_to_string(key).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        r#"run as root, or "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0""#
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        r#"run as root, or "sudo sysctl kernel.unprivileged_userns_clone=1""#
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        r#"run as root, or "sudo sysctl user.max_user_namespaces=10000""#
    } else {
        "run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    }
}

/// All that a child needs in order to enter, made ready before the fork.
struct Entry {
    privilege: Privilege,
    uid_map: String,
    gid_map: String,
}

impl Entry {
    fn new(privilege: Privilege) -> Self {
        Self { privilege, uid_map: format!("0 {} 1", geteuid()), gid_map: format!("0 {} 1", getegid()) }
    }

    /// Async-signal-safe.
    fn enter(&self) -> io::Result<()> {
        let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
        if self.privilege == Privilege::UserNamespace {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        unshare(flags)?;
        if self.privilege == Privilege::UserNamespace {
            put(c"/proc/self/setgroups", b"deny")?;
            put(c"/proc/self/uid_map", self.uid_map.as_bytes())?;
            put(c"/proc/self/gid_map", self.gid_map.as_bytes())?;
        }
        let nothing: Option<&CStr> = None;
        mount(nothing, c"/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        // The first process of the new process-id namespace takes all others with it when it ends. The program
        // itself is not to be that one: it would have to reap orphans, and could not be ended by signals.
        supervised_fork()?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, nothing)?;
        // WireGuard devices are found by sockets in here, and those of the sandbox are not the host's. Where this fails, nobody in the
        // sandbox can write there either.
        let _ = mkdir(c"/run/wireguard", Mode::S_IRWXU);
        let _ = mount(Some(c"tmpfs"), c"/run/wireguard", Some(c"tmpfs"), flags, Some(c"mode=0700"));
        supervised_fork()
    }
}

fn put(path: &CStr, text: &[u8]) -> io::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(file.as_fd(), text)?;
    Ok(())
}

/// Returns in a child that dies with the calling process, which becomes its supervisor. Async-signal-safe.
fn supervised_fork() -> io::Result<()> {
    // Blocked, the signals that come before the supervisor is ready wait for it.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: both sides make only async-signal-safe calls, as after the fork that led here.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => supervise(child),
        ForkResult::Child => {
            mask.thread_set_mask()?;
            Ok(set_pdeathsig(Signal::SIGKILL)?)
        }
    }
}

/// Reaps every child, passes signals, all blocked, on to one of them, and ends as that one ends.
fn supervise(child: Pid) -> ! {
    /// What a shell adds to the number of the signal that ended a program.
    const BY_SIGNAL: i32 = 128;
    let all = SigSet::all();
    // SAFETY: closing descriptors is sound here because nothing in this process uses them any more; the
    // status of `exec` goes through the child's copies.
    unsafe { libc::close_range(0, u32::MAX, 0) };
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => exit_now(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    exit_now(BY_SIGNAL + signal as i32)
                }
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => exit_now(BY_SIGNAL),
            }
        }
        // SAFETY: siginfo_t is plain data, for which zeroes are valid.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: both pointers are valid for the call.
        let signal = unsafe { libc::sigwaitinfo(all.as_ref(), &raw mut info) };
        if signal > 0 && signal != libc::SIGCHLD && info.si_code <= 0 {
            // SAFETY: kill(2) touches no memory of this process.
            unsafe { libc::kill(child.as_raw(), signal) };
        }
    }
}

fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) runs nothing of this process, whose memory is a copy of another's.
    unsafe { libc::_exit(code) }
}

/// Passes signals on to a child for as long as it is held.
struct Forwarding {
    before: Vec<(Signal, SigAction)>,
}

static FORWARD_TO: AtomicI32 = AtomicI32::new(0);
/// A signal that came before there was a child to pass it on to.
static PENDING: AtomicI32 = AtomicI32::new(0);

impl Forwarding {
    fn start() -> io::Result<Self> {
        let action = SigAction::new(SigHandler::SigAction(forward), SaFlags::SA_RESTART, SigSet::empty());
        let mut forwarding = Self { before: Vec::new() };
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler only loads an atomic and makes a system call.
            forwarding.before.push((signal, unsafe { sigaction(signal, &action) }?));
        }
        Ok(forwarding)
    }

    fn to(&self, child: u32) {
        FORWARD_TO.store(child.cast_signed(), Ordering::SeqCst);
        let pending = PENDING.swap(0, Ordering::SeqCst);
        if pending > 0 {
            // SAFETY: kill(2) touches no memory of this process.
            unsafe { libc::kill(child.cast_signed(), pending) };
        }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        FORWARD_TO.store(0, Ordering::SeqCst);
        PENDING.store(0, Ordering::SeqCst);
        for (signal, action) in &self.before {
            // SAFETY: this puts back what was there before.
            let _ = unsafe { sigaction(*signal, action) };
        }
    }
}

extern "C" fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to a SA_SIGINFO handler.
    let by_a_process = unsafe { (*info).si_code } <= 0;
    if !by_a_process {
        return;
    }
    // Noted first: `Forwarding::to` then sees it, or this sees the child.
    PENDING.store(signal, Ordering::SeqCst);
    let child = FORWARD_TO.load(Ordering::SeqCst);
    if child > 0 && PENDING.swap(0, Ordering::SeqCst) > 0 {
        // SAFETY: kill(2) touches no memory of this process and is async-signal-safe.
        unsafe { libc::kill(child, signal) };
    }
}
