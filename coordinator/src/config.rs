//! What an operator may choose.

use std::{net::SocketAddr, os::fd::OwnedFd, path::PathBuf};

use carrick_types::Cidr;

/// Where a coordinator keeps its state and where it listens.
#[derive(Debug)]
pub struct Config {
    /// The directory of its keys and its database; made where there is none.
    pub data_dir: PathBuf,
    /// Where HTTPS is served. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// A TCP socket that listens already, served beside `listen`.
    pub listen_fd: Option<OwnedFd>,
    /// Where STUN is answered. Port 0 takes a free one, which nodes are told.
    pub udp: SocketAddr,
    /// The URL by which nodes reach the coordinator, where that is not one of the host's own addresses.
    pub public_url: Option<String>,
    /// The IPv4 range of overlay addresses, 100.64.0.0/10 where it is left out. Fixed when the mesh is made.
    pub overlay: Option<Cidr>,
    /// The version of this software, for people.
    pub version: String,
    /// Where the profile of the command line is written when the mesh is made, unless there is one.
    pub profile: Option<PathBuf>,
}
