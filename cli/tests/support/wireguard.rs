//! WireGuard devices in a lab, `carrick device` and others, all configured with `wg`.

use std::{
    env, fmt, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
    time::Duration,
};

use carrick_lab::{Host, Lab, Link, Process, eventually, traffic::ping};
use nix::mount::{MsFlags, mount};

/// How long a handshake and what follows it may take, lost first attempts included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// One attempt.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(1);

/// A gotatun that is configured may end: one of its tasks takes the end of another one, which is being replaced, for a failure. So often
/// it is started again.
const GOTATUNS: usize = 10;

/// One that has not ended by then stays.
const STAYS: Duration = Duration::from_millis(700);

/// Where devices listen for datagrams.
pub(crate) const PORT: u16 = 51820;

/// What makes a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// With as many shards as the environment says.
    Carrick,
    /// The same with one.
    SingleCarrick,
    /// The same with several shards.
    ShardedCarrick,
    WireGuardGo,
    Boringtun,
    Gotatun,
}

impl Implementation {
    /// Its program.
    ///
    /// # Panics
    /// Where it is not at hand, or an environment variable names nothing.
    pub(crate) fn program(self) -> PathBuf {
        let (variable, program, install) = match self {
            Self::Carrick | Self::SingleCarrick | Self::ShardedCarrick => {
                return env!("CARGO_BIN_EXE_carrick").into();
            }
            Self::WireGuardGo => ("CARRICK_WIREGUARD_GO", "wireguard-go", "apt-get install wireguard-go"),
            Self::Boringtun => {
                ("CARRICK_BORINGTUN", "boringtun-cli", "cargo install --locked boringtun-cli@0.7.1")
            }
            Self::Gotatun => (
                "CARRICK_GOTATUN",
                "gotatun",
                "cargo install --locked gotatun-cli@0.10.2 --no-default-features --features ring",
            ),
        };
        let named = env::var_os(variable).map(PathBuf::from);
        if let Some(path) = &named {
            assert!(is_file(path), "{variable} names {}, which is no program", path.display());
        }
        let found = named.or_else(|| find(program));
        found.unwrap_or_else(|| panic!("{program} is missing: {install}, or name it in {variable}"))
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Carrick => &["device", "--foreground"],
            Self::SingleCarrick => &["device", "--foreground", "--shards", "1"],
            Self::ShardedCarrick => &["device", "--foreground", "--shards", "3"],
            Self::WireGuardGo => &["-f"],
            Self::Boringtun | Self::Gotatun => &["--foreground", "--disable-drop-privileges"],
        }
    }
}

/// A device with a key.
pub(crate) struct Device {
    implementation: Implementation,
    pub(crate) host: Host,
    pub(crate) interface: String,
    pub(crate) public_key: String,
    pub(crate) process: Process,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.interface, self.implementation)
    }
}

impl Device {
    /// Starts one, and gives it a key and the usual port.
    pub(crate) fn start(implementation: Implementation, host: &Host, interface: &str) -> Self {
        Self::start_at(implementation, host, interface, PORT)
    }

    /// Starts one, and gives it a key and a port.
    pub(crate) fn start_at(implementation: Implementation, host: &Host, interface: &str, port: u16) -> Self {
        let attempts = if implementation == Implementation::Gotatun { GOTATUNS } else { 1 };
        let mut ended = Vec::new();
        for _ in 0..attempts {
            let (device, secret) = Self::start_once(implementation, host, interface);
            let set = ["set", interface, "private-key", secret.to_str().unwrap(), "listen-port"];
            let set = try_run(host, "wg", &[&set, [port.to_string().as_str()].as_slice()].concat());
            if set.status.success() && (attempts == 1 || device.process.wait(STAYS).is_err()) {
                return device;
            }
            ended.push(format!("{set:?} {}", device.process.output()));
        }
        panic!("{implementation:?} cannot be configured: {ended:#?}");
    }

    /// One that listens to `wg`, and the file with the key that it is to be given.
    fn start_once(implementation: Implementation, host: &Host, interface: &str) -> (Self, PathBuf) {
        let mut command = Command::new(implementation.program());
        command.args(implementation.arguments()).arg(interface);
        command.env("LOG_LEVEL", "verbose").env("WG_LOG_LEVEL", "debug");
        let process = host.spawn(interface, command).unwrap();
        let socket = socket(interface);
        eventually(PATIENCE, &format!("{}: {}", socket.display(), process.output()), || {
            std::os::unix::net::UnixStream::connect(&socket).ok()?;
            try_run(host, "ip", &["link", "show", interface]).status.success().then_some(())
        })
        .unwrap();
        let secret = run(host, "wg", &["genkey"]);
        let public_key = public(host, &secret);
        let (host, interface) = (host.clone(), interface.to_owned());
        let device = Self { implementation, host, interface, public_key, process };
        let file = secret_file(&device.interface, &secret);
        (device, file)
    }

    /// Whether it is under test.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self.implementation,
            Implementation::Carrick | Implementation::SingleCarrick | Implementation::ShardedCarrick
        )
    }

    /// Gives it another key, and says the public half.
    pub(crate) fn change_key(&self) -> String {
        let secret = run(&self.host, "wg", &["genkey"]);
        let file = secret_file(&self.interface, &secret);
        self.set(&["private-key", file.to_str().unwrap()]);
        public(&self.host, &secret)
    }

    /// `wg set` for it.
    pub(crate) fn set(&self, arguments: &[&str]) {
        run(&self.host, "wg", &[&["set", &self.interface], arguments].concat());
    }

    /// One field of `wg show`, of its only peer.
    pub(crate) fn show(&self, what: &str) -> String {
        let text = run(&self.host, "wg", &["show", &self.interface, what]);
        text.trim().split_once('\t').map_or(text.trim(), |(_, value)| value).to_owned()
    }

    /// Bytes received and sent.
    pub(crate) fn transfer(&self) -> (u64, u64) {
        let text = self.show("transfer");
        let (rx, tx) = text.split_once('\t').unwrap();
        (rx.parse().unwrap(), tx.parse().unwrap())
    }

    /// Seconds since the epoch; 0 before the first.
    pub(crate) fn last_handshake(&self) -> u64 {
        self.show("latest-handshakes").parse().unwrap()
    }

    /// Gives the interface an address, and brings it up.
    pub(crate) fn up(&self, addresses: &[&str], mtu: &str) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "{} has ended: {}", self.interface, self.process.output());
        for address in addresses {
            run(&self.host, "ip", &["address", "add", address, "dev", &self.interface]);
        }
        run(&self.host, "ip", &["link", "set", &self.interface, "mtu", mtu, "up"]);
    }

    /// Waits for an answer.
    pub(crate) fn eventually_ping(&self, to: IpAddr) {
        let what = format!("an answer of {to} to {}: {}", self.host.name(), self.process.output());
        eventually(PATIENCE, &what, || ping(&self.host, to, ATTEMPT).ok()).unwrap();
    }
}

/// Two devices on two hosts with a cable between them, each the other's peer.
pub(crate) struct Pair {
    pub(crate) one: Device,
    pub(crate) two: Device,
    pub(crate) link: Link,
    told: Mutex<Told>,
}

/// What the devices were told of each other.
#[derive(Default)]
struct Told {
    preshared_key: Option<PathBuf>,
    /// Where the other is, to each.
    endpoints: [Option<String>; 2],
}

/// Outside and inside addresses of the two.
pub(crate) const OUTSIDE: [[&str; 2]; 2] = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];
pub(crate) const INSIDE: [[&str; 2]; 2] = [["10.77.0.1", "fd77::1"], ["10.77.0.2", "fd77::2"]];

impl Pair {
    /// They know each other's keys and addresses, and nothing has been sent yet.
    pub(crate) fn new(lab: &mut Lab, implementations: [Implementation; 2]) -> Self {
        own_run();
        Self::among(lab, ["one", "two"], implementations)
    }

    /// The same on hosts with other names, with the /run that there is.
    pub(crate) fn among(lab: &mut Lab, names: [&str; 2], implementations: [Implementation; 2]) -> Self {
        let hosts = names.map(|name| lab.host(name).unwrap());
        let [outside_one, outside_two] = OUTSIDE.map(|[v4, v6]| [format!("{v4}/24"), format!("{v6}/64")]);
        let link = lab.wire(
            &hosts[0],
            "eth0",
            &outside_one.each_ref().map(String::as_str),
            &hosts[1],
            "eth0",
            &outside_two.each_ref().map(String::as_str),
        );
        let [one, two] =
            [0, 1].map(|n| Device::start(implementations[n], &hosts[n], &format!("wg-{}", names[n])));
        for (device, [v4, v6]) in [(&one, INSIDE[0]), (&two, INSIDE[1])] {
            device.up(&[&format!("{v4}/24"), &format!("{v6}/64")], "1420");
        }
        let pair = Self { one, two, link: link.unwrap(), told: Mutex::default() };
        [0, 1].iter().for_each(|&to| pair.introduce(to));
        pair
    }

    /// Tells one of them of the other everything at once.
    fn introduce(&self, to: usize) {
        let (told, ends) = (self.told.lock().unwrap(), [&self.one, &self.two]);
        let (device, peer, [v4, v6]) = (ends[to], ends[1 - to], INSIDE[1 - to]);
        // It cannot change a peer.
        if device.implementation == Implementation::Boringtun {
            device.set(&["peer", &peer.public_key, "remove"]);
        }
        let allowed_ips = format!("{v4}/32,{v6}/128");
        let mut arguments = vec!["peer", &peer.public_key, "allowed-ips", &allowed_ips];
        if let Some(file) = &told.preshared_key {
            arguments.extend(["preshared-key", file.to_str().unwrap()]);
        }
        if let Some(endpoint) = &told.endpoints[to] {
            arguments.extend(["endpoint", endpoint]);
        }
        device.set(&arguments);
    }

    /// Makes one of them lose its sessions, and everything that it was not told.
    pub(crate) fn forget(&self, which: usize) {
        let ends = [&self.one, &self.two];
        ends[which].set(&["peer", &ends[1 - which].public_key, "remove"]);
        self.introduce(which);
    }

    /// Shares a secret between them.
    pub(crate) fn share(&self, preshared_key: &str) {
        self.told.lock().unwrap().preshared_key =
            Some(secret_file(&format!("{}-preshared", self.one.interface), preshared_key));
        [0, 1].iter().for_each(|&to| self.introduce(to));
    }

    /// Tells one of them where the other is.
    pub(crate) fn point(&self, to: usize, family: usize) {
        let endpoint = SocketAddr::new(OUTSIDE[1 - to][family].parse().unwrap(), PORT).to_string();
        self.told.lock().unwrap().endpoints[to] = Some(endpoint);
        self.introduce(to);
    }

    /// Two of ours.
    pub(crate) fn carrick(lab: &mut Lab) -> Self {
        Self::new(lab, [Implementation::Carrick; 2])
    }

    /// Both ways, and for both families inside.
    pub(crate) fn assert_pings(&self) {
        for (device, inside) in [(&self.one, INSIDE[1]), (&self.two, INSIDE[0])] {
            inside.iter().for_each(|address| device.eventually_ping(address.parse().unwrap()));
        }
    }
}

/// Gives this test a /run for itself: devices are found by a socket in there.
pub(crate) fn own_run() {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// Where an interface is configured.
pub(crate) fn socket(interface: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{interface}.sock"))
}

/// A file in memory that only root reads.
pub(crate) fn secret_file(name: &str, secret: &str) -> PathBuf {
    let file = Path::new("/run").join(format!("{name}.key"));
    fs::write(&file, secret).unwrap();
    file
}

/// Runs an administrator's program to success, and gives what it says.
pub(crate) fn run(host: &Host, program: &str, arguments: &[&str]) -> String {
    let output = try_run(host, program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    text(&output)
}

/// Runs an administrator's program.
pub(crate) fn try_run(host: &Host, program: &str, arguments: &[&str]) -> Output {
    let package = match program {
        "wg" | "wg-quick" => "wireguard-tools",
        "iptables" => "iptables",
        "ping" => "iputils-ping",
        _ => "iproute2",
    };
    let found = find(program).unwrap_or_else(|| panic!("{program} is missing: apt-get install {package}"));
    host.command(found).args(arguments).output().unwrap()
}

/// The public half of a key.
pub(crate) fn public(host: &Host, secret: &str) -> String {
    let file = secret_file("public", secret);
    let wg = find("wg").unwrap_or_else(|| panic!("wg is missing: apt-get install wireguard-tools"));
    let output = host.command(wg).arg("pubkey").stdin(fs::File::open(file).unwrap()).output();
    text(&output.unwrap()).trim().to_owned()
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program in PATH, or where administrators' programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|candidate| is_file(candidate))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}
