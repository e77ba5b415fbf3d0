//! `carrick node`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use carrick_node::{Config, EvidenceSources, MAX_SHARDS, Tcti, TeeSources, TpmSource};
use carrick_types::{Cidr, JoinToken, NodeName, check_prefix_claim};
use carrick_wire::hello;
use clap::{Args, ValueEnum};

use crate::{
    VERSION, runtime,
    secret::{self, Given},
};

/// The state directory of a node that root runs.
pub(super) const SYSTEM_STATE_DIR: &str = "/var/lib/carrick/node";

/// Run a node of the mesh in the foreground
///
/// A node that has joined before needs no token: it finds its keys in the state directory.
#[derive(Debug, Args)]
#[command(after_help = "\
The token may also be in the environment variable CARRICK_TOKEN. Only --token-file keeps it out of sight from the start.

Examples:
  carrick node --token-file token --prefix 10.1.0.0/24
  carrick node")]
pub(crate) struct Node {
    /// The join token
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// The file that holds the join token; - is stdin
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    options: NodeOptions,
}

/// What one may choose for a node, however it is run.
#[derive(Debug, Args)]
pub(crate) struct NodeOptions {
    /// The directory for its keys
    #[arg(long, value_name = "DIR", default_value = SYSTEM_STATE_DIR)]
    pub(super) state_dir: PathBuf,
    /// Its name in the mesh [default: the host's]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<NodeName>,
    /// A network it speaks for, such as a pod CIDR; may be repeated [default: as when it joined]
    #[arg(long = "prefix", value_name = "CIDR")]
    pub(super) prefixes: Vec<Cidr>,
    /// The UDP port of its tunnels; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 51820)]
    pub(super) listen_port: u16,
    /// The name of its network interface
    #[arg(long, value_name = "NAME", default_value = "carrick0", value_parser = parse_interface)]
    pub(super) interface: String,
    /// The longest packet in a tunnel, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1420, value_parser = clap::value_parser!(u16).range(1280..=65_455))]
    pub(super) mtu: u16,
    /// How many threads move packets
    #[arg(long, value_name = "NUMBER", env = "CARRICK_SHARDS", default_value_t = 1, value_parser = parse_shards)]
    pub(super) shards: usize,
    /// Whether to check the evidence of its peers itself, or to believe the coordinator's appraisal
    #[arg(long, value_enum, value_name = "WHOM", default_value_t)]
    pub(super) trust: Trust,
    /// The certificate of the key that signs SEV-SNP reports (VCEK or VLEK), in DER or PEM, where the host does not hand it out
    #[arg(long, value_name = "FILE")]
    pub(super) sev_snp_certificate: Option<PathBuf>,
    /// Its TPM: device:PATH, swtpm:PATH or swtpm:HOST:PORT; used where the policy bundle asks for one [default: /dev/tpmrm0, where
    /// there is one]
    #[arg(long, value_name = "TCTI")]
    pub(super) tpm: Option<Tcti>,
}

/// Whom a node believes about its peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Trust {
    /// Their evidence, under the operator's policy bundle
    #[default]
    Evidence,
    /// The coordinator
    Coordinator,
}

impl Node {
    pub(super) fn run(self) -> Result<()> {
        let given = given(self.token.as_deref(), self.token_file.as_deref());
        secret::hide(given)?;
        let config = self.options.config(secret::token(given)?)?;
        run(config)
    }
}

impl NodeOptions {
    /// The node's configuration.
    pub(super) fn config(self, token: Option<JoinToken>) -> Result<Config> {
        check_prefix_claim(&self.prefixes, &[])?;
        let evidence = EvidenceSources {
            tee: TeeSources { sev_snp_certificate: self.sev_snp_certificate, ..TeeSources::default() },
            tpm: self.tpm.or_else(default_tpm).map(|tcti| TpmSource { tcti, attestation: None }),
            ..EvidenceSources::default()
        };
        Ok(Config {
            state_dir: self.state_dir,
            token,
            name: self.name,
            prefixes: (!self.prefixes.is_empty()).then_some(self.prefixes),
            listen_port: self.listen_port,
            interface: self.interface,
            shards: self.shards,
            mtu: self.mtu,
            version: VERSION.to_owned(),
            trust: match self.trust {
                Trust::Evidence => hello::Trust::Evidence,
                Trust::Coordinator => hello::Trust::Coordinator,
            },
            evidence,
        })
    }
}

/// The kernel's, where this host has a TPM.
fn default_tpm() -> Option<Tcti> {
    let device = Path::new(Tcti::DEFAULT);
    device.exists().then(|| Tcti::Device(device.to_owned()))
}

/// Runs a node until a signal ends it.
pub(super) fn run(config: Config) -> Result<()> {
    runtime::serve(async |shutdown| Ok(carrick_node::run(config, shutdown).await?))
}

/// Where the arguments say that the token is.
pub(super) fn given<'a>(token: Option<&'a str>, file: Option<&'a Path>) -> Given<'a> {
    match (token, file) {
        (Some(token), _) => Given::Argument(token),
        (None, Some(file)) => Given::File(file),
        (None, None) => Given::Nothing,
    }
}

/// As many as an interface has queues, at most.
pub(super) fn parse_shards(text: &str) -> Result<usize, String> {
    let shards = text.parse().ok().filter(|shards| (1..=MAX_SHARDS).contains(shards));
    shards.ok_or_else(|| format!("a number from 1 to {MAX_SHARDS}"))
}

pub(super) fn parse_interface(text: &str) -> Result<String, String> {
    if carrick_node::is_interface_name(text) {
        Ok(text.to_owned())
    } else {
        Err("an interface has 1 to 15 letters, digits, '-', '_', '.', '=' and '+'".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_a_short_plain_name() {
        assert_eq!((parse_shards("1"), parse_shards("16")), (Ok(1), Ok(16)));
        for bad in ["", "0", "17", "-1", "1.5", "many"] {
            parse_shards(bad).expect_err(bad);
        }
        assert_eq!(parse_interface("carrick0").as_deref(), Ok("carrick0"));
        for bad in ["", ".", "..", "a b", "a/b", "sixteen-letters-", "-a", "é"] {
            parse_interface(bad).expect_err(bad);
        }
    }
}
