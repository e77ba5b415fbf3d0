//! Two hosts with a cable between them, and a tunnel over it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{Host, Lab, Process, eventually, traffic::ping};
use carrick_types::WireGuardKey;
use nix::mount::{MsFlags, mount};

use super::contender::{Contender, Program, in_path};

/// How long a device may take to start, and a handshake.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The addresses outside.
const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// The addresses in the tunnel.
const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];

const PORT: u16 = 51820;

/// Where a [`Responder`] listens: the tunnel's device is at the same host.
const RESPONDER_PORT: u16 = 51821;

pub(super) const MTU: &str = "1420";

/// A way from one host to another.
pub(super) struct Bed {
    tunnel: Option<Program>,
    pub(super) hosts: [Host; 2],
    /// The addresses to be measured between.
    pub(super) addresses: [IpAddr; 2],
    /// The devices, if there is a tunnel.
    pub(super) devices: Vec<Process>,
}

impl Bed {
    /// A cable alone.
    pub(super) fn plain(lab: &mut Lab) -> Result<Self> {
        let hosts = cable(lab, "plain")?;
        Ok(Self { tunnel: None, hosts, addresses: OUTSIDE.map(IpAddr::V4), devices: Vec::new() })
    }

    /// A tunnel that is up.
    pub(super) fn new(lab: &mut Lab, program: Program) -> Result<Self> {
        let name = program.contender.name();
        let hosts = cable(lab, name)?;
        let mut devices = Vec::new();
        let mut keys = Vec::new();
        for (end, host) in hosts.iter().enumerate() {
            devices.push(start(&program, host, &program.interface(end))?);
            keys.push(key(host)?);
        }
        for (end, host) in hosts.iter().enumerate() {
            let (interface, other) = (program.interface(end), 1 - end);
            let (secret, peer) = (&keys[end].0, &keys[other].1);
            let configuration = format!(
                "[Interface]\nPrivateKey = {secret}\nListenPort = {PORT}\n[Peer]\nPublicKey = {peer}\nAllowedIPs = {}/32\n\
                 Endpoint = {}:{PORT}\n",
                INSIDE[other], OUTSIDE[other]
            );
            configure(host, &interface, &configuration)?;
            run(host, "ip", &["address", "add", &format!("{}/24", INSIDE[end]), "dev", &interface])?;
            run(host, "ip", &["link", "set", &interface, "mtu", MTU, "up"])?;
        }
        let answer = || ping(&hosts[0], INSIDE[1].into(), Duration::from_secs(1)).ok();
        eventually(PATIENCE, &format!("an answer through {name}"), answer)?;
        let addresses = INSIDE.map(IpAddr::V4);
        Ok(Self { tunnel: Some(program), hosts, addresses, devices })
    }

    pub(super) fn name(&self) -> &'static str {
        self.tunnel.as_ref().map_or("untunnelled", |program| program.contender.name())
    }

    pub(super) fn is_of(&self, contender: Contender) -> bool {
        self.tunnel.as_ref().is_some_and(|program| program.contender == contender)
    }

    /// What its devices are, if there is a tunnel.
    pub(super) const fn program(&self) -> Option<&Program> {
        self.tunnel.as_ref()
    }

    /// CPU time of the devices so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        self.devices.iter().map(|device| Ok(device.cpu_seconds()?)).sum()
    }

    /// Resident memory of another device of this kind, as `configuration` says.
    pub(super) fn memory_with(&self, lab: &mut Lab, name: &str, configuration: &str) -> Result<u64> {
        let program = self.tunnel.as_ref().context("a cable has no memory")?;
        let host = lab.host(&format!("{}-{name}-{}", self.name(), lab.hosts().len()))?;
        let interface = program.interface(2);
        let device = start(program, &host, &interface)?;
        let secret = key(&host)?.0;
        configure(&host, &interface, &format!("[Interface]\nPrivateKey = {secret}\n{configuration}"))?;
        let bytes = device.rss_bytes()?;
        device.terminate(PATIENCE)?;
        Ok(bytes)
    }

    /// Another device of this kind, with these peers, at the second host. The `sources` are addresses of the first one.
    pub(super) fn responder(&self, sources: &str, peers: &str) -> Result<Responder> {
        let program = self.tunnel.as_ref().context("a cable answers no handshake")?;
        let [initiators, host] = &self.hosts;
        run(initiators, "ip", &["route", "replace", "local", sources, "dev", "lo"])?;
        run(host, "ip", &["route", "replace", sources, "via", &OUTSIDE[0].to_string()])?;
        let interface = program.interface(3);
        let device = start(program, host, &interface)?;
        let (secret, public) = key(host)?;
        let own = format!("[Interface]\nPrivateKey = {secret}\nListenPort = {RESPONDER_PORT}\n");
        configure(host, &interface, &(own + peers))?;
        run(host, "ip", &["link", "set", &interface, "up"])?;
        let address = SocketAddrV4::new(OUTSIDE[1], RESPONDER_PORT);
        Ok(Responder { device, key: public.parse()?, address })
    }
}

/// A device that begins nothing.
pub(super) struct Responder {
    device: Process,
    pub(super) key: WireGuardKey,
    pub(super) address: SocketAddrV4,
}

impl Responder {
    /// Its CPU time so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        Ok(self.device.cpu_seconds()?)
    }

    /// Leaves its name to the next one.
    pub(super) fn terminate(self) -> Result<()> {
        self.device.terminate(PATIENCE)?;
        Ok(())
    }
}

/// Gives this run a /run for itself: devices are found by a socket in there.
pub(super) fn own_run() -> Result<()> {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .context("cannot mount a /run of this run's own")
}

fn cable(lab: &mut Lab, name: &str) -> Result<[Host; 2]> {
    let number = lab.hosts().len();
    let hosts = [lab.host(&format!("{name}-{number}"))?, lab.host(&format!("{name}-{}", number + 1))?];
    let [one, two] = OUTSIDE.map(|address| format!("{address}/24"));
    lab.wire(&hosts[0], "eth0", &[&one], &hosts[1], "eth0", &[&two])?;
    Ok(hosts)
}

/// Starts a device, and waits until it can be configured.
pub(super) fn start(program: &Program, host: &Host, interface: &str) -> Result<Process> {
    let process = host.spawn(interface, program.command(interface))?;
    let socket = Path::new("/run/wireguard").join(format!("{interface}.sock"));
    eventually(PATIENCE, &format!("{}", socket.display()), || UnixStream::connect(&socket).ok())
        .with_context(|| process.output())?;
    Ok(process)
}

pub(super) fn configure(host: &Host, interface: &str, configuration: &str) -> Result<()> {
    let file = Path::new("/run").join(format!("{interface}.conf"));
    fs::write(&file, configuration)?;
    run(host, "wg", &["setconf", interface, &file.display().to_string()]).map(drop)
}

/// A secret key and its public half.
pub(super) fn key(host: &Host) -> Result<(String, String)> {
    let secret = run(host, "wg", &["genkey"])?;
    let file = Path::new("/run/secret");
    fs::write(file, &secret)?;
    let public = host.command(wg()?).arg("pubkey").stdin(fs::File::open(file)?).output()?;
    Ok((secret.trim().to_owned(), String::from_utf8(public.stdout)?.trim().to_owned()))
}

pub(super) fn run(host: &Host, program: &str, arguments: &[&str]) -> Result<String> {
    let path = if program == "wg" { wg()? } else { in_path(program).context("iproute2 is missing")? };
    let output = host.command(path).args(arguments).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

fn wg() -> Result<PathBuf> {
    in_path("wg").context("wg is missing: apt-get install wireguard-tools")
}
