//! `carrick demo`: the whole product on this machine, in network namespaces.
//!
//! Builds two clusters behind a router, runs the real processes in them, proves step by step what they promise ([`proof`]),
//! and leaves everything up to be looked at. Start at [`Demo::run`].

mod proof;
mod report;

use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, TcpListener},
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
    process,
};

use anyhow::{Context as _, Result, bail};
use carrick_lab::{Lab, mesh::Mesh, sandbox};
use clap::Args;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use self::report::Report;
use crate::output;

/// Show the whole product on this machine: two clusters, one mesh, in network namespaces
#[derive(Debug, Args)]
#[command(after_help = "\
Needs Linux with network namespaces and /dev/net/tun; root, or unprivileged user namespaces.
Touches nothing outside the namespaces that it makes, and takes them down when it ends.")]
pub(crate) struct Demo {
    /// Exit after the proof; the exit code says whether every step held
    #[arg(long)]
    once: bool,
    /// Print the outcome as JSON on stdout; people's text goes to stderr
    #[arg(long)]
    json: bool,
    /// The socket of the web page, made outside the namespaces
    #[arg(long, hide = true)]
    page_fd: Option<RawFd>,
}

impl Demo {
    /// Enters the sandbox, then runs the demo in it.
    pub(crate) fn run(self) -> Result<()> {
        match self.page_fd {
            Some(page) if sandbox::inside() => self.run_inside(page),
            _ => self.enter(),
        }
    }

    fn enter(&self) -> Result<()> {
        sandbox::preflight()?;
        let page = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot listen on 127.0.0.1 for the web page")?;
        let mut arguments =
            vec!["demo".into(), "--page-fd".into(), OsString::from(page.as_raw_fd().to_string())];
        arguments.extend(self.once.then(|| "--once".into()));
        arguments.extend(self.json.then(|| "--json".into()));
        let status = sandbox::reexec(Path::new("/proc/self/exe"), &arguments, &[], &[page.as_raw_fd()])?;
        match status.code() {
            Some(0) => Ok(()),
            code => process::exit(code.unwrap_or(1)),
        }
    }

    fn run_inside(&self, page: RawFd) -> Result<()> {
        // SAFETY: `enter` made this descriptor for this process alone, and nothing else here knows of it.
        let page = TcpListener::from(unsafe { OwnedFd::from_raw_fd(page) });
        let url = format!("https://{}", page.local_addr().context("the web page's socket is gone")?);
        let interrupt = Interrupt::catch()?;
        let carrick = std::env::current_exe().context("cannot find the carrick binary")?;
        let mut lab = Lab::new()?;
        let mut report = Report::new();
        output::note("carrick demo: two clusters, one mesh, on this machine\n");
        let mut mesh = None;
        let start = |mesh: &mut Mesh| start_coordinator(mesh, &page);
        let proven = proof::run(&mut report, &mut lab, &carrick, &mut mesh, start, &interrupt);
        drop(page);
        report.print_summary();
        if self.json {
            output::print_json(&report.to_json())?;
        }
        if let Err(error) = proven {
            if let Some(mesh) = &mesh {
                print_last_words(mesh);
            }
            return Err(error);
        }
        if !self.once
            && let Some(mesh) = &mesh
        {
            let viewer = std::fs::read_to_string(mesh.data_dir().join("viewer.credential"));
            let viewer = viewer.context("cannot read the credential for the web page")?;
            output::note(&format!(
                "\nThe lab is up. The live topology, with a credential that may only read:\n  {}\n\
                 (the certificate is the demo's own; the browser will ask about it)\nCtrl-C takes everything down.",
                url.replace("://", &format!("://viewer:{}@", viewer.trim()))
            ));
            interrupt.wait()?;
            output::note("\nTaking everything down.");
        }
        Ok(())
    }
}

/// The coordinator, and no other process, inherits the socket of the web page.
fn start_coordinator(mesh: &mut Mesh, page: &TcpListener) -> Result<()> {
    let inherit = |flags| {
        fcntl(page.as_fd(), FcntlArg::F_SETFD(flags)).context("cannot hand the web page's socket over")
    };
    inherit(FdFlag::empty())?;
    let started = mesh.start_coordinator(&["--listen-fd".into(), page.as_raw_fd().to_string().into()]);
    inherit(FdFlag::FD_CLOEXEC)?;
    Ok(started?)
}

fn print_last_words(mesh: &Mesh) {
    let nodes = mesh.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.process.as_ref()?)));
    for (name, process) in mesh.coordinator.iter().map(|process| ("coordinator", process)).chain(nodes) {
        let output = process.output();
        let lines: Vec<&str> = output.lines().collect();
        output::note(&format!(
            "--- the last lines of {name}:\n{}",
            lines[lines.len().saturating_sub(8)..].join("\n")
        ));
    }
}

/// SIGINT and SIGTERM, taken when the demo looks for them, so that everything is taken down in order.
pub(super) struct Interrupt(SignalFd);

impl Interrupt {
    /// Must be called before the first thread is started. Child processes are not affected.
    fn catch() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Ok(Self(descriptor.context("cannot watch for signals")?))
    }

    /// Fails once the user wants no more.
    pub(super) fn check(&self) -> Result<()> {
        if matches!(self.0.read_signal(), Ok(Some(_))) {
            bail!("interrupted");
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }
}
