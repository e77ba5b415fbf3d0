//! `carrick coordinator`.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use carrick_client::CoordinatorUrl;
use carrick_coordinator::Config;
use carrick_types::{Cidr, MeshId};
use clap::Args;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    unistd::geteuid,
};
use tracing::warn;

use crate::{
    VERSION, output,
    remote::{Remote, SYSTEM_DATA_DIR, directory, profile_path, write_profile},
    runtime,
    secret::{self, Given},
};

/// Serve a mesh: API, web page, sessions with its nodes
///
/// Makes what it needs when it first starts: keys, credentials and a database, all in the data directory.
#[derive(Debug, Args)]
pub(crate) struct Coordinator {
    /// The directory for its keys and its database
    /// [default: /var/lib/carrick/coordinator for root, else ~/.local/state/carrick/coordinator]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to serve HTTPS
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:8443")]
    listen: SocketAddr,
    /// Where to answer nodes that ask for their address
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:3478")]
    udp: SocketAddr,
    /// The URL by which nodes reach it, where that is none of this host's addresses
    #[arg(long, value_name = "URL")]
    public_url: Option<CoordinatorUrl>,
    /// The range of overlay IPv4 addresses, fixed at the first start [default: 100.64.0.0/10]
    #[arg(long, value_name = "CIDR")]
    overlay: Option<Cidr>,
    /// An inherited TCP socket that listens already
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(i32).range(3..))]
    listen_fd: Option<RawFd>,
}

impl Coordinator {
    pub(super) fn run(self) -> Result<()> {
        secret::hide(Given::Nothing)?;
        let data_dir = self
            .data_dir
            .or_else(default_data_dir)
            .context("there is no home directory: give --data-dir DIR")?;
        let config = Config {
            data_dir: data_dir.clone(),
            listen: self.listen,
            listen_fd: self.listen_fd.map(inherited).transpose()?,
            udp: self.udp,
            public_url: self.public_url.map(|url| url.to_string()),
            overlay: self.overlay,
            version: VERSION.to_owned(),
            profile: profile_path(),
        };
        runtime::serve(async |shutdown| {
            let coordinator = carrick_coordinator::Coordinator::start(config).await?;
            let url = url_on_this_host(coordinator.listening())?;
            let admin = coordinator.admin_credential_file();
            if let Err(error) = write_profile(&data_dir, &url, admin) {
                warn!(error = format!("{error:#}"), "no profile in the data directory");
            }
            let welcome = Welcome {
                mesh: coordinator.mesh(),
                listening: coordinator.listening(),
                page: coordinator.urls().first().map_or_else(|| url.to_string(), String::clone),
                admin,
                viewer: coordinator.viewer_credential_file(),
                holds_operator_key: coordinator.holds_operator_key(),
                flags: (!Remote::is_default(&url, admin)).then_some(url),
            };
            // Nobody needs to read this for the coordinator to run.
            if let Err(error) = output::print(&welcome.text()) {
                warn!(%error, "stdout is closed");
            }
            Ok(coordinator.run(shutdown).await?)
        })
    }
}

/// What a coordinator says when it is ready.
struct Welcome<'a> {
    mesh: MeshId,
    listening: SocketAddr,
    page: String,
    admin: &'a Path,
    viewer: &'a Path,
    /// Whether whoever takes this host over can admit whom they like.
    holds_operator_key: bool,
    /// The URL that verbs have to be told, where they do not find this coordinator of their own accord.
    flags: Option<CoordinatorUrl>,
}

impl Welcome<'_> {
    fn text(&self) -> String {
        let mut text = format!("Coordinator of mesh {}\n", self.mesh);
        for (key, value) in [
            ("Listening on", self.listening.to_string()),
            ("Web page", self.page.clone()),
            ("Admin credential", self.admin.display().to_string()),
            ("Viewer credential", self.viewer.display().to_string()),
        ] {
            let _ = writeln!(text, "  {key:<19}{value}");
        }
        if self.holds_operator_key {
            let _ = writeln!(
                text,
                "  {:<19}held here, until `carrick operator init` takes it over",
                "Operator's key"
            );
        }
        text.push_str("Next, for each cluster:\n  carrick token create --cluster NAME");
        if let Some(url) = &self.flags {
            let _ = write!(text, " --coordinator {url} --credential {}", self.admin.display());
        }
        text.push('\n');
        text
    }
}

/// Where somebody on this host reaches what listens there.
fn url_on_this_host(listening: SocketAddr) -> Result<CoordinatorUrl> {
    let ip = if listening.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listening.ip() };
    Ok(format!("https://{}", SocketAddr::new(ip, listening.port())).parse()?)
}

fn default_data_dir() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some(SYSTEM_DATA_DIR.into());
    }
    Some(directory("XDG_STATE_HOME", ".local/state")?.join("carrick/coordinator"))
}

/// Takes a descriptor over from whoever started this process, and keeps it from processes that this one starts.
fn inherited(descriptor: RawFd) -> Result<OwnedFd> {
    // SAFETY: descriptors from 3 up are whatever the parent left open. Nothing here has opened one yet that it still owns, so
    // nobody else closes it; where it is not open, the next line finds out before it is used.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    match fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(owned),
        Err(error) => {
            std::mem::forget(owned);
            Err(error).with_context(|| format!("--listen-fd {descriptor} is no open socket"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_says_where_it_is_and_what_to_type_next() {
        let welcome = |flags: Option<CoordinatorUrl>| Welcome {
            mesh: MeshId::from_bytes([0; 16]),
            listening: "[::]:8443".parse().unwrap(),
            page: "https://192.0.2.1:8443".to_owned(),
            admin: Path::new("/data/admin"),
            viewer: Path::new("/data/viewer"),
            holds_operator_key: flags.is_none(),
            flags,
        };
        let text = welcome(None).text();
        assert_eq!(
            text,
            "\
Coordinator of mesh aaaaaaaaaaaaaaaaaaaaaaaaaa
  Listening on       [::]:8443
  Web page           https://192.0.2.1:8443
  Admin credential   /data/admin
  Viewer credential  /data/viewer
  Operator's key     held here, until `carrick operator init` takes it over
Next, for each cluster:
  carrick token create --cluster NAME
"
        );
        let url = url_on_this_host("[::]:8443".parse().unwrap()).unwrap();
        let command = "--cluster NAME --coordinator https://127.0.0.1:8443 --credential /data/admin\n";
        let elsewhere = welcome(Some(url)).text();
        assert!(elsewhere.ends_with(command) && !elsewhere.contains("Operator's key"), "{elsewhere}");
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_refused() {
        let error = inherited(9_999).unwrap_err().to_string();
        assert_eq!(error, "--listen-fd 9999 is no open socket");
    }
}
