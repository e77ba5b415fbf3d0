//! `carrick join`.

use std::{
    env,
    path::{PathBuf, absolute},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::unistd::geteuid;

use super::{
    node::{self, NodeOptions, given},
    systemd::{self, Service},
};
use crate::{
    output::{list, note, print},
    runtime, secret,
};

/// Join this host to the mesh
///
/// With --host: joins, then installs and starts a systemd service. Where there is no systemd the node runs in the foreground.
#[derive(Debug, Args)]
#[command(after_help = "\
The token may also be in the environment variable CARRICK_TOKEN. Only --token-file keeps it out of sight from the start.

Examples:
  carrick join TOKEN --host
  carrick join --host --token-file - --prefix 10.1.0.0/24 < token")]
pub(crate) struct Join {
    /// The join token
    #[arg(value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// The file that holds the join token; - is stdin
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Join this host itself
    #[arg(long)]
    host: bool,
    #[command(flatten)]
    options: NodeOptions,
}

impl Join {
    pub(super) fn run(self) -> Result<()> {
        if !self.host {
            bail!(
                "joining a Kubernetes cluster is not there yet: `carrick join TOKEN --host` joins this host"
            );
        }
        let given = given(self.token.as_deref(), self.token_file.as_deref());
        secret::hide(given)?;
        let Some(token) = secret::token(given)? else {
            bail!(
                "there is no token: make one with `carrick token create`, then `carrick join TOKEN --host`"
            );
        };
        let config = self.options.config(Some(token))?;
        if !systemd::is_running() {
            note("systemd does not run here: the node runs in the foreground, until Ctrl-C");
            return node::run(config);
        }
        if !geteuid().is_root() {
            bail!("a service takes root to install: run this with sudo");
        }
        let service = Service {
            program: env::current_exe().context("cannot find the path of this program")?,
            state_dir: absolute(&config.state_dir).context("the state directory has no absolute path")?,
            interface: config.interface.clone(),
            mtu: config.mtu,
            shards: config.shards,
            listen_port: config.listen_port,
            tpm: config.evidence.tpm.as_ref().map(|source| source.tcti.clone()),
        };
        let enrolment = runtime::call(async { Ok(carrick_node::enrol(&config).await?) })?;
        systemd::install(&service)?;
        print(&format!(
            "{} joined cluster {} with overlay addresses {}\nIts service runs: systemctl status {}\n",
            enrolment.name,
            enrolment.cluster,
            list(&enrolment.overlay_ips),
            systemd::UNIT
        ))
    }
}
