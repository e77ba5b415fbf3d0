use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, SysconfVar, getppid, sysconf};

use crate::error::{Doing as _, Error, Result};

/// Output kept of one process, in bytes; the oldest lines go first.
const KEPT_OUTPUT: usize = 4 << 20;
/// A longer line is taken as several.
const LONGEST_LINE: u64 = 64 << 10;
const POLL: Duration = Duration::from_millis(5);

/// A running process in a process group of its own. Dropped, the group is killed and the process reaped.
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: Pid,
    output: Arc<Output>,
}

impl Process {
    /// Starts a command with its output collected. It dies with this program, not with the calling thread.
    pub(crate) fn start(name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = spawn_durably(command).doing(|| format!("start {name}"))?;
        let output = Arc::new(Output { name: name.to_owned(), ..Output::default() });
        let streams: [(Stream, Option<Box<dyn Read + Send>>); 2] = [
            (Stream::Stdout, child.stdout.take().map(|pipe| Box::new(pipe) as _)),
            (Stream::Stderr, child.stderr.take().map(|pipe| Box::new(pipe) as _)),
        ];
        output.lock().open = streams.len();
        for (stream, pipe) in streams {
            let (output, pipe) = (Arc::clone(&output), pipe.unwrap_or_else(|| Box::new(io::empty())));
            thread::spawn(move || output.collect(stream, pipe));
        }
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok(Self { name: name.to_owned(), child: Mutex::new(child), pid, output })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Whether to also print its further output, line by line, to this program's standard error.
    pub fn echo(&self, on: bool) {
        self.output.echo.store(on, Ordering::Relaxed);
    }

    /// The first line, of either stream, that contains `part`; lines that came before this call count.
    pub fn wait_for_line(&self, part: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut lines = self.output.lock();
        let mut searched = 0;
        loop {
            let unseen = searched.max(lines.forgotten) - lines.forgotten;
            if let Some((_, line)) = lines.kept.iter().skip(unseen).find(|(_, line)| line.contains(part)) {
                return Ok(line.clone());
            }
            searched = lines.forgotten + lines.kept.len();
            let awaited = format!("{part:?} in the output of {}", self.name);
            if lines.open == 0 {
                drop(lines);
                let status = self.wait(deadline.saturating_duration_since(Instant::now()))?;
                let (process, output) = (self.name.clone(), self.tail());
                return Err(Error::Ended { process, status, awaited, output });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout { awaited, limit });
            }
            lines = self.output.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What it printed to standard output, as far as it is kept.
    pub fn stdout(&self) -> String {
        self.output.text(|stream| stream == Stream::Stdout)
    }

    /// What it printed to standard error, as far as it is kept.
    pub fn stderr(&self) -> String {
        self.output.text(|stream| stream == Stream::Stderr)
    }

    /// Both streams, line by line in the order of their arrival.
    pub fn output(&self) -> String {
        self.output.text(|_| true)
    }

    /// How it ended, if it has.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.child().try_wait().doing(|| format!("wait for {}", self.name))
    }

    /// How it ended, with all its output collected.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                self.output.finish(deadline.max(Instant::now() + Duration::from_millis(200)));
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { awaited: format!("the end of {}", self.name), limit });
            }
            thread::sleep(POLL);
        }
    }

    /// Sends a signal to it and its descendants, unless it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Holding the child keeps another thread from reaping it, after which the id may be another's.
        let mut child = self.child();
        if child.try_wait().doing(|| format!("wait for {}", self.name))?.is_some() {
            return Ok(());
        }
        killpg(self.pid, signal).doing(|| format!("send {signal} to {}", self.name))
    }

    /// Asks it to end, by SIGTERM, and waits for that.
    pub fn terminate(&self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Kills it and its descendants, and reaps it.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.child().wait().doing(|| format!("reap {}", self.name))
    }

    /// Its resident memory.
    pub fn rss_bytes(&self) -> Result<u64> {
        let statm = self.proc("statm")?;
        let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        Ok(pages * system_value(SysconfVar::PAGE_SIZE))
    }

    /// CPU time used so far by all its threads, in user and kernel mode.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        // proc_pid_stat(5): utime and stime are fields 14 and 15; the name, field 2, may hold blanks.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        Ok(ticks as f64 / system_value(SysconfVar::CLK_TCK) as f64)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).doing(|| format!("read {path} of {}", self.name))
    }

    fn tail(&self) -> String {
        const LINES: usize = 40;
        let lines = self.output.lock();
        let skipped = lines.kept.len().saturating_sub(LINES);
        lines.kept.iter().skip(skipped).map(|(_, line)| format!("  {line}\n")).collect()
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Descendants may outlive the process, in its group.
        let mut child = self.child();
        let reaped = matches!(child.try_wait(), Ok(Some(_)));
        if !reaped || group_exists(self.pid) {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        let _ = child.wait();
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Process({}, {})", self.name, self.pid)
    }
}

/// In a child: asks the kernel to kill it when the thread that started it ends; fails if that has happened.
pub(crate) fn die_with_parent(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw().cast_unsigned() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// Spawns on a thread that lives as long as the program, since the kernel ties a child to its parent's thread.
fn spawn_durably(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

fn group_exists(group: Pid) -> bool {
    killpg(group, None).is_ok()
}

fn system_value(name: SysconfVar) -> u64 {
    sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(1)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

#[derive(Default)]
struct Output {
    name: String,
    echo: AtomicBool,
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<(Stream, String)>,
    kept_bytes: usize,
    forgotten: usize,
    /// Streams that have not ended.
    open: usize,
}

impl Output {
    fn collect(&self, stream: Stream, pipe: impl Read) {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            if matches!(pipe.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line), Ok(0) | Err(_)) {
                break;
            }
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
            if self.echo.load(Ordering::Relaxed) {
                eprintln!("{}: {text}", self.name);
            }
            self.lock().push(stream, text);
            self.changed.notify_all();
        }
        self.lock().open -= 1;
        self.changed.notify_all();
    }

    fn text(&self, wanted: impl Fn(Stream) -> bool) -> String {
        self.lock()
            .kept
            .iter()
            .filter(|(stream, _)| wanted(*stream))
            .map(|(_, line)| format!("{line}\n"))
            .collect()
    }

    /// Waits for the end of both streams; a descendant may hold them open past the deadline.
    fn finish(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let open = |lines: &mut Lines| lines.open > 0;
        drop(self.changed.wait_timeout_while(self.lock(), left, open));
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, stream: Stream, line: String) {
        self.kept_bytes += line.len();
        self.kept.push_back((stream, line));
        while self.kept_bytes > KEPT_OUTPUT {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.len();
            self.forgotten += 1;
        }
    }
}
