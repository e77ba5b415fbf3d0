//! The packet path as a WireGuard device without a mesh: an administrator configures it with `wg` and `wg-quick`.
//!
//! Start at [`run`]. Addresses and routes are the administrator's affair.

use std::{io, time::Duration};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use nix::errno::Errno;
use rtnetlink::{LinkUnspec, MulticastGroup};
use tokio::time::{Instant as Deadline, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    NetlinkError, TunError, UapiError,
    changes::{Changes, Notice},
    netlink, routes,
    shard::{Command, Commands, Shards},
    tun::Tun,
    uapi::{Access, Server},
    udp::UdpSockets,
    whereabouts::{Place, Whereabouts},
};

/// The MTU of the interface until somebody sets another one, in bytes: with IPv6 outside a packet of 1,500 bytes is full.
const MTU: u16 = 1420;

/// An answer of the kernel that takes longer got lost.
const ANSWERS: Duration = Duration::from_secs(1);

/// An interface in another network namespace is asked after so often where the kernel does not tell what becomes of it.
const LOOKS: Duration = Duration::from_secs(1);

/// One that moves on while it is looked for is looked for again.
const MOVES: Duration = Duration::from_millis(10);

/// Why there is no device, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum StandAloneError {
    /// There is no interface.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// It cannot be configured.
    #[error(transparent)]
    Uapi(#[from] UapiError),
    /// The kernel was not told, or does not tell.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No socket for datagrams.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// The packet path failed.
    #[error("the packet path failed: {0}")]
    PacketPath(#[source] io::Error),
}

/// Why a device ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Asked,
    InterfaceRemoved,
    SocketRemoved,
}

/// Runs a device, whose packets so many threads move, until `shutdown`, or until its interface or its socket is removed; leaves neither behind. Calls `is_there`
/// when both are.
///
/// # Errors
/// [`StandAloneError`].
pub async fn run(
    interface: &str,
    shards: usize,
    is_there: impl FnOnce() -> io::Result<()>,
    shutdown: CancellationToken,
) -> Result<(), StandAloneError> {
    let tun = Tun::open(interface)?;
    let server = Server::bind(interface)?;
    let sockets = UdpSockets::bind(0, 0).map_err(StandAloneError::Socket)?;
    let whereabouts = tun.whereabouts().map_err(|error| TunError::Failed(interface.to_owned(), error))?;
    let mut link = Link::of(tun.index(), whereabouts).await?;
    let (shard, failure) =
        Shards::start_stand_alone(MTU, tun, sockets, shards).map_err(StandAloneError::PacketPath)?;
    is_there().map_err(StandAloneError::PacketPath)?;
    info!(interface, "device started");
    let commands = shard.commands();
    let routes = tokio::spawn(routes::follow(shard.commands()));
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(End::Asked),
        () = server.serve(shard.commands(), Access::Full) => Ok(End::SocketRemoved),
        () = link.follow(&commands) => Ok(End::InterfaceRemoved),
        failed = failure => match failed {
            // The kernel has taken the interface from under the descriptor.
            Ok(error) if error.raw_os_error() == Some(Errno::EBADFD as i32) => Ok(End::InterfaceRemoved),
            Ok(error) => Err(StandAloneError::PacketPath(error)),
            Err(_) => Err(StandAloneError::PacketPath(io::Error::other("its thread panicked"))),
        },
    };
    routes.abort();
    drop(link);
    shard.stop().await;
    info!(interface, end = ?outcome.as_ref().ok(), "device stopped");
    outcome.map(drop)
}

/// What the kernel says of the interface.
struct Link {
    changes: Changes,
    whereabouts: Whereabouts,
    /// The number of the network namespace that it was moved to.
    away: Option<i32>,
    /// When it was last asked after.
    looked: Deadline,
    index: u32,
    mtu: u16,
    /// The MTU that super-packets were last made to fit.
    fitted: u16,
    up: bool,
}

impl Link {
    /// Gives the interface its first MTU.
    async fn of(index: u32, whereabouts: Whereabouts) -> Result<Self, NetlinkError> {
        let changes = Changes::follow(&[MulticastGroup::Link]).map_err(NetlinkError::Socket)?;
        let link = LinkUnspec::new_with_index(index).mtu(MTU.into()).build();
        let set = changes.handle().link().set(link).execute().await;
        set.map_err(|error| NetlinkError::Refused("set the interface's MTU".to_owned(), error))?;
        netlink::limit_superpackets(changes.handle(), index, MTU).await;
        let looked = Deadline::now();
        Ok(Self { changes, whereabouts, away: None, looked, index, mtu: MTU, fitted: MTU, up: false })
    }

    /// Tells the packet path when the interface goes up or down, or has another MTU. Ends when it is removed.
    async fn follow(&mut self, commands: &Commands) {
        // It was down when it was made; somebody may have been quick.
        let mut there = self.catch_up(commands).await;
        loop {
            there = match there {
                Some(()) => self.heed_next(commands).await,
                None if self.find().await.is_some() => self.catch_up(commands).await,
                None => return,
            };
        }
    }

    /// Heeds the next change; `None` where the interface is there no longer.
    async fn heed_next(&mut self, commands: &Commands) -> Option<()> {
        let next = self.changes.next();
        let notice = match self.away {
            // Changes of others do not put it off.
            Some(_) => timeout_at(self.looked + LOOKS, next).await.unwrap_or(Notice::Missed),
            None => next.await,
        };
        let Notice::Told(change) = notice else { return self.catch_up(commands).await };
        let (RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) = &*change else {
            return Some(());
        };
        if link.header.index != self.index {
            return Some(());
        }
        // Elsewhere it may be about an interface of a third place.
        if self.away.is_some() {
            return self.catch_up(commands).await;
        }
        if let RouteNetlinkMessage::DelLink(_) = &*change {
            return None;
        }
        self.heed(link, commands).await;
        Some(())
    }

    /// Finds the interface wherever somebody has moved it; `None` where it is gone.
    async fn find(&mut self) -> Option<()> {
        loop {
            let place = self.place()?;
            let number = timeout(ANSWERS, self.whereabouts.number(self.changes.handle())).await;
            let number = match number.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(number) => number,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::warn!(%error, "the interface cannot be followed to its network namespace");
                    return None;
                }
                Err(error) => {
                    tracing::debug!(%error, "the interface's network namespace has no number");
                    self.changes.begin_anew().await;
                    continue;
                }
            };
            let mut links = self.changes.handle().link().get().match_name(place.name.clone());
            links.message_mut().attributes.extend(number.map(LinkAttribute::IfNetnsId));
            match timeout(ANSWERS, links.execute().try_next()).await {
                // Nothing has changed meanwhile, so that it is of this interface.
                Ok(Ok(Some(link))) if self.place()? == place => {
                    self.index = link.header.index;
                    if number != self.away {
                        info!(interface = place.name, namespace = number, "the interface was moved");
                    }
                    self.away = number;
                    self.changes.listen_everywhere(number.is_some());
                    return Some(());
                }
                Ok(Ok(Some(_)) | Err(rtnetlink::Error::NetlinkError(_))) => sleep(MOVES).await,
                Ok(Ok(None) | Err(_)) | Err(_) => self.changes.begin_anew().await,
            }
        }
    }

    /// Where the interface is; `None` where it is gone.
    fn place(&self) -> Option<Place> {
        let look = self.whereabouts.look();
        if let Err(error) = &look
            && error.raw_os_error() != Some(Errno::EBADFD as i32)
        {
            tracing::warn!(%error, "where the interface is cannot be seen");
        }
        look.ok()
    }

    /// Asks what was missed; `None` where the interface is there no longer.
    async fn catch_up(&mut self, commands: &Commands) -> Option<()> {
        self.looked = Deadline::now();
        loop {
            match self.ask().await? {
                Ok(link) => self.heed(&link, commands).await,
                Err(error) => {
                    tracing::warn!(%error, "the kernel does not say how the interface is");
                    self.changes.begin_anew().await;
                    continue;
                }
            }
            // What is still to be told may be older than what was missed, or newer than the answer.
            if !self.changes.skip() {
                return Some(());
            }
        }
    }

    /// How the interface is; `None` where it is there no longer.
    async fn ask(&self) -> Option<Result<LinkMessage, rtnetlink::Error>> {
        let mut links = self.changes.handle().link().get().match_index(self.index);
        links.message_mut().attributes.extend(self.away.map(LinkAttribute::IfNetnsId));
        let answer = timeout(ANSWERS, links.execute().try_next()).await;
        let answer = answer.unwrap_or(Err(rtnetlink::Error::RequestFailed));
        // A namespace that has ended has no number any more.
        let no_namespace = |code| self.away.is_some() && code == -libc::EINVAL;
        if let Err(rtnetlink::Error::NetlinkError(error)) = &answer
            && (error.raw_code() == -libc::ENODEV || no_namespace(error.raw_code()))
        {
            return None;
        }
        // Where the connection has ended, there is no answer at all.
        Some(answer.and_then(|link| link.ok_or(rtnetlink::Error::RequestFailed)))
    }

    async fn heed(&mut self, link: &LinkMessage, commands: &Commands) {
        // Whether the packet path has ended is seen elsewhere.
        if let Some(mtu) = mtu(link).filter(|mtu| *mtu != self.mtu) {
            self.mtu = mtu;
            let _ = commands.send(Command::SetMtu(mtu)).await;
        }
        // Elsewhere super-packets stay as they are until it comes home: whoever asks from here for something there would have the interface
        // moved there.
        if self.fitted != self.mtu && self.away.is_none() {
            let limited = netlink::limit_superpackets(self.changes.handle(), self.index, self.mtu);
            if timeout(ANSWERS, limited).await.is_ok() {
                self.fitted = self.mtu;
            }
        }
        let up = link.header.flags.contains(LinkFlags::Up);
        if up != self.up {
            self.up = up;
            let _ = commands.send(Command::SetUp(up)).await;
        }
    }
}

fn mtu(link: &LinkMessage) -> Option<u16> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::Mtu(mtu) = attribute else { return None };
        u16::try_from(*mtu).ok()
    })
}
