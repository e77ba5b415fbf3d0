//! The service that runs a node where there is systemd.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use carrick_node::Tcti;

/// The unit's name.
pub(super) const UNIT: &str = "carrick-node.service";

const UNIT_DIR: &str = "/etc/systemd/system";

/// What the service runs. There is no token in it: the node has joined before the service starts.
#[derive(Debug)]
pub(super) struct Service {
    /// This program.
    pub(super) program: PathBuf,
    /// The node's state directory, absolute.
    pub(super) state_dir: PathBuf,
    /// The node's interface.
    pub(super) interface: String,
    /// The node's MTU.
    pub(super) mtu: u16,
    pub(super) shards: usize,
    /// The node's UDP port; 0 for any.
    pub(super) listen_port: u16,
    /// The node's TPM.
    pub(super) tpm: Option<Tcti>,
}

/// Whether systemd is what runs this host, as sd_booted(3) tells.
pub(super) fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Installs the service in place of an earlier one, has it start with the host, and starts it now.
pub(super) fn install(service: &Service) -> Result<()> {
    let path = Path::new(UNIT_DIR).join(UNIT);
    let draft = path.with_extension("service.new");
    let text = service.unit()?;
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, &path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", UNIT])?;
    // A service that ran already has the old unit and the old state.
    systemctl(&["restart", UNIT])
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("systemctl").args(arguments).output().context("cannot run systemctl")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("`systemctl {}` failed: {}; see `journalctl -u {UNIT}`", arguments.join(" "), reason.trim());
    }
    Ok(())
}

impl Service {
    /// The unit file. It leaves the node what it needs: `CAP_NET_ADMIN`, `/dev/net/tun`, `/proc/sys/net`, its state directory, where `wg` looks
    /// for interfaces (which it may have in common with others), and to put its packets before other threads.
    fn unit(&self) -> Result<String> {
        let (program, state_dir) = (quoted(&self.program)?, quoted(&self.state_dir)?);
        let Self { interface, mtu, listen_port, shards, .. } = self;
        let (tpm, device) = match &self.tpm {
            None => (String::new(), String::new()),
            Some(tcti) => (format!(" --tpm {}", quoted(Path::new(&tcti.to_string()))?), device(tcti)?),
        };
        Ok(format!(
            "\
[Unit]
Description=Carrick node
Documentation=https://github.com/carrick-mesh/carrick
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={program} node --state-dir {state_dir} --interface {interface} --mtu {mtu} --listen-port {listen_port} --shards {shards}{tpm}
Restart=on-failure
RestartSec=2
RestartSteps=8
RestartMaxDelaySec=300
UMask=0077
CapabilityBoundingSet=CAP_NET_ADMIN
LimitNICE=-10
NoNewPrivileges=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
{device}ProtectSystem=strict
ReadWritePaths={state_dir}
RuntimeDirectory=wireguard
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"
        ))
    }
}

/// What lets the service use the device of a TPM. Without `CAP_DAC_OVERRIDE` even root must be of the group that owns it.
fn device(tcti: &Tcti) -> Result<String> {
    let Tcti::Device(path) = tcti else { return Ok(String::new()) };
    let group =
        fs::metadata(path).with_context(|| format!("cannot find the TPM at {}", path.display()))?.gid();
    Ok(format!("DeviceAllow={} rw\nSupplementaryGroups={group}\n", quoted(path)?))
}

/// A path as one word of a unit file (systemd.syntax(7)). `%` begins a specifier and `$` a variable.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.with_context(|| format!("{} cannot be written into a unit file", path.display()))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(program: &str) -> Service {
        Service {
            program: program.into(),
            state_dir: "/var/lib/carrick/node".into(),
            interface: "carrick0".to_owned(),
            mtu: 1420,
            shards: 1,
            listen_port: 51820,
            tpm: None,
        }
    }

    #[test]
    fn the_unit_runs_the_node_with_no_more_than_it_needs() {
        assert_eq!(service("/usr/local/bin/carrick").unit().unwrap(), include_str!("carrick-node.service"));
    }

    #[test]
    fn the_unit_names_the_tpm_and_lets_the_service_use_it() {
        // Any device will do whose group is known.
        let unit = |tpm: &str| {
            Service { tpm: Some(tpm.parse().unwrap()), ..service("/usr/local/bin/carrick") }.unit().unwrap()
        };
        let device = unit("device:/dev/null");
        assert!(device.contains("--listen-port 51820 --shards 1 --tpm device:/dev/null\n"), "{device}");
        assert!(
            device.contains("DeviceAllow=/dev/null rw\nSupplementaryGroups=0\nProtectSystem"),
            "{device}"
        );
        let socket = unit("swtpm:/run/tpm/socket");
        assert!(
            socket.contains(" --tpm swtpm:/run/tpm/socket\n") && !socket.contains("Supplementary"),
            "{socket}"
        );
    }

    #[test]
    fn a_path_stays_one_word() {
        assert_eq!(quoted(Path::new("/opt/my bin/100%$\"\\")).unwrap(), r#""/opt/my bin/100%%$$\"\\""#);
        quoted(Path::new("/a\nExecStart=/evil")).unwrap_err();
    }
}
