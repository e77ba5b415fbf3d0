//! `carrick revoke`.

use anyhow::Result;
use carrick_types::NodeName;
use carrick_wire::api::{Node, RevokeNode};
use clap::Args;

use crate::{output::Output, remote::Remote, runtime};

/// Cut a node off, for good
///
/// Every other node drops its key and its sessions at once. The node cannot come back with that key.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  carrick revoke east-2 --reason \"disk stolen\"")]
pub(crate) struct Revoke {
    /// Its name or id
    // An id is lower-case base32, and so reads as a name too.
    node: NodeName,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Revoke {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let path = format!("/v1/nodes/{}/revoke", self.node);
        let request = RevokeNode { reason: self.reason };
        let node: Node = runtime::call(async { Ok(api.post(&path, &request).await?) })?;
        self.output.print(&node, |node| format!("{} of cluster {} is revoked\n", node.name, node.cluster))
    }
}
