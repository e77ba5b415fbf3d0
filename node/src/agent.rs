//! The agent itself: keeps a session with the coordinator, and this host as the netmap says.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use carrick_dataplane::LinkState;
use carrick_types::{Cidr, JoinToken, NodeName, UnixTime};
use carrick_wire::{
    netmap::NetmapView,
    session::{LinkReport, MAX_ENDPOINTS, RefusalCode, ToCoordinator},
};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Config, Enrolment, NodeError,
    backoff::Backoff,
    host,
    netlink::{Interface, TABLE},
    plan::{Plan, plan},
    session::{Opening, Session, SessionError},
    shard::{Command, Shard},
    state::{Keys, Membership, StateDir},
    tun::Tun,
    udp::UdpSockets,
};

/// How often links are reported, where they changed.
const REPORT: Duration = Duration::from_secs(1);

/// How often, in reports, this host's addresses are looked at.
const LOOK_AROUND: u64 = 5;

/// How often, in reports, the coordinator is asked where datagrams come from.
const ASK_STUN: u64 = 25;

/// A session that held so long was a good one: the next attempt comes soon.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// Who this node is.
struct Identity {
    state: StateDir,
    keys: Keys,
    membership: Membership,
    /// The membership that is on disk. What is there already is not written again: a disk that is full later must not cost a session.
    stored: Option<Membership>,
    token: Option<JoinToken>,
}

impl Identity {
    fn open(config: &Config) -> Result<Self, NodeError> {
        let state = StateDir::open(&config.state_dir)?;
        let keys = state.keys()?;
        let stored = state.membership()?;
        let mut membership = match (stored.clone(), &config.token) {
            (None, None) => return Err(NodeError::NoToken),
            (Some(membership), None) => membership,
            (Some(membership), Some(token)) if membership.mesh == token.mesh => {
                Membership { ca: token.ca, urls: token.urls.clone(), ..membership }
            }
            (Some(membership), Some(token)) => {
                return Err(NodeError::OtherMesh {
                    state_dir: state.path().to_owned(),
                    member: membership.mesh,
                    token: token.mesh,
                });
            }
            (None, Some(token)) => {
                let name = config.name.clone().or_else(hostname).ok_or(NodeError::NoName)?;
                Membership::asked(token, name, Vec::new())
            }
        };
        if let Some(prefixes) = &config.prefixes {
            membership.prefixes.clone_from(prefixes);
        }
        Ok(Self { state, keys, membership, stored, token: config.token.clone() })
    }

    async fn session(
        &mut self,
        view: Option<&NetmapView>,
        version: &str,
        mark: bool,
    ) -> Result<Session, NodeError> {
        let session = Session::open(Opening {
            membership: &self.membership,
            keys: &self.keys,
            token: self.token.as_ref(),
            have: view.map(|view| view.revision),
            version,
            mark,
        })
        .await?;
        self.membership.name = session.welcome.name.clone();
        self.membership.cluster = session.welcome.cluster.clone();
        if self.stored.as_ref() != Some(&self.membership) {
            match self.state.set_membership(&self.membership) {
                Ok(()) => self.stored = Some(self.membership.clone()),
                // A disk that is full must not keep a running node from hearing of revocations.
                Err(error) if view.is_some() => warn!(%error, "membership not stored"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(session)
    }
}

pub(crate) async fn enrol(config: &Config) -> Result<Enrolment, NodeError> {
    let mut identity = Identity::open(config)?;
    let mut session = identity.session(None, &config.version, false).await?;
    let mut view = None;
    session.update(&mut view).await?;
    session.close().await;
    let own = view.ok_or(SessionError::OutOfTurn("a netmap"))?.own;
    Ok(Enrolment {
        name: identity.membership.name,
        cluster: identity.membership.cluster,
        overlay_ips: vec![own.overlay_v4.into(), own.overlay_v6.into()],
    })
}

pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    let identity = Identity::open(&config)?;
    let _only = host::claim().map_err(|_| NodeError::NotAlone)?;
    let tun = Tun::open(&config.interface)?;
    let sockets = UdpSockets::bind(config.listen_port, TABLE).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            NodeError::PortTaken(config.listen_port)
        } else {
            NodeError::Socket(config.listen_port, error)
        }
    })?;
    let port = sockets.port();
    let interface = Interface::up(tun.index(), config.mtu).await?;
    let secret = identity.keys.wireguard.clone();
    let (shard, failure) = match Shard::start(secret, tun, sockets) {
        Ok(started) => started,
        Err(error) => {
            interface.down().await?;
            return Err(NodeError::PacketPath(error));
        }
    };
    let public_key = identity.keys.wireguard.public();
    info!(interface = config.interface, port, %public_key, "node agent started");

    let mut agent = Agent {
        identity,
        config,
        port,
        shard,
        interface,
        view: None,
        plan: Plan::default(),
        observed: BTreeSet::new(),
        warned_of_forwarding: false,
    };
    let outcome = tokio::select! {
        outcome = agent.serve() => outcome,
        () = shutdown.cancelled() => Ok(()),
        failed = failure => {
            let error = failed.unwrap_or_else(|_| io::Error::other("its thread panicked"));
            Err(NodeError::PacketPath(error))
        }
    };
    let Agent { shard, interface, .. } = agent;
    shard.stop().await;
    let down = interface.down().await;
    info!("node agent stopped");
    outcome.and(down.map_err(NodeError::from))
}

struct Agent {
    identity: Identity,
    config: Config,
    port: u16,
    shard: Shard,
    interface: Interface,
    view: Option<NetmapView>,
    plan: Plan,
    /// Where the coordinator saw this node's datagrams, or its session, come from.
    observed: BTreeSet<SocketAddr>,
    warned_of_forwarding: bool,
}

/// What was last reported in a session.
#[derive(Default)]
struct Reported {
    endpoints: Vec<SocketAddr>,
    links: Vec<LinkReport>,
}

impl Agent {
    /// Opens one session after another. Ends only where going on makes no sense.
    async fn serve(&mut self) -> Result<(), NodeError> {
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            let opened = self.identity.session(self.view.as_ref(), &self.config.version, true).await;
            let error = match opened {
                Ok(session) => NodeError::Session(self.attend(session).await),
                Err(error) => error,
            };
            self.judge(error)?;
            if since.elapsed() >= GOOD_SESSION {
                backoff = Backoff::new();
            }
            let mut random = [0; 4];
            // Without randomness, the longest wait.
            let random = getrandom::fill(&mut random).map_or(u32::MAX, |()| u32::from_ne_bytes(random));
            sleep(backoff.next(random)).await;
        }
    }

    /// A node that is revoked, or that never was welcome, ends; any other keeps its tunnels and tries again.
    fn judge(&self, error: NodeError) -> Result<(), NodeError> {
        let running = self.view.is_some();
        let goes_on = match &error {
            NodeError::Session(SessionError::Refused(refusal)) if refusal.code == RefusalCode::Revoked => {
                false
            }
            NodeError::Session(error) => running || error.is_transient(),
            // A disk that is full for the moment must not cut a running node off.
            NodeError::State(_) => running,
            NodeError::Tun(_)
            | NodeError::Netlink(_)
            | NodeError::PortTaken(_)
            | NodeError::Socket(..)
            | NodeError::NoToken
            | NodeError::OtherMesh { .. }
            | NodeError::NoName
            | NodeError::NotAlone
            | NodeError::PacketPath(_) => false,
        };
        if !goes_on {
            return Err(error);
        }
        warn!(%error, tunnels_kept = running, "no session with the coordinator; trying again");
        Ok(())
    }

    /// Keeps a session until it breaks.
    async fn attend(&mut self, mut session: Session) -> SessionError {
        let welcome = &session.welcome;
        info!(node = %welcome.name, cluster = %welcome.cluster, id = %welcome.node, "session with the coordinator");
        self.observed.clear();
        if session.welcome.observed_ip != session.remote.ip() {
            self.observed.insert((session.welcome.observed_ip, self.port).into());
        }
        let mut reported = Reported::default();
        let mut ticks = interval(REPORT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u64;
        loop {
            let step = tokio::select! {
                biased;
                updated = session.update(&mut self.view) => {
                    if updated.is_ok() {
                        self.follow().await;
                    }
                    updated
                }
                Some(address) = self.shard.observed.recv() => {
                    self.observed.insert(address);
                    self.report_endpoints(&mut session, &mut reported).await
                }
                _ = ticks.tick() => {
                    let step = self.report(&mut session, &mut reported, count).await;
                    count += 1;
                    step
                }
            };
            if let Err(error) = step {
                return error;
            }
        }
    }

    /// Makes this host what the netmap says: first who may come in, then where packets go.
    async fn follow(&mut self) {
        let Some(view) = &self.view else { return };
        let local = host::local_addresses(&self.config.interface);
        let networks: Vec<Cidr> = local.iter().map(|address| address.network).collect();
        let new = plan(view, &networks);
        for (prefix, peer, network) in new.hidden.iter().filter(|hidden| !self.plan.hidden.contains(hidden)) {
            warn!(%prefix, %peer, %network, "prefix of a peer not routed: this host is in that network itself");
        }
        if !self.warned_of_forwarding && !view.own.prefixes.is_empty() && host::forwards() == (false, false) {
            warn!(
                "this host does not forward: `sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`"
            );
            self.warned_of_forwarding = true;
        }
        let revision = view.revision;
        let removes = self.plan.peers.keys().filter(|key| !new.peers.contains_key(key)).copied().collect();
        let changed = new.peers.iter().filter(|&(key, config)| self.plan.peers.get(key) != Some(config));
        let upserts = changed.map(|(key, config)| (*key, config.clone())).collect();
        // Both fail only when the packet path has ended, which `run` is told as well.
        let _ = self.shard.command(Command::SetOwn(new.own.clone())).await;
        let _ = self.shard.command(Command::ChangePeers { removes, upserts }).await;
        if let Err(error) = self.interface.apply(&new).await {
            warn!(%error, "interface not as it should be");
        }
        info!(%revision, peers = new.peers.len(), "netmap applied");
        self.plan = new;
    }

    async fn report(
        &mut self,
        session: &mut Session,
        reported: &mut Reported,
        count: u64,
    ) -> Result<(), SessionError> {
        // TCP would find out much later, and peers would not be told of the new address until then.
        if !host::has_address(session.local) {
            return Err(SessionError::Moved(session.local));
        }
        if count.is_multiple_of(ASK_STUN)
            && let Some(port) = session.welcome.stun_port
        {
            let mut transaction = [0; 12];
            if getrandom::fill(&mut transaction).is_ok() {
                let server = SocketAddr::new(session.remote.ip().to_canonical(), port);
                let _ = self.shard.command(Command::Stun { server, transaction }).await;
            }
        }
        if count.is_multiple_of(LOOK_AROUND) {
            if let Err(error) = self.interface.repair(&self.plan).await {
                warn!(%error, "interface not as it should be");
            }
            self.report_endpoints(session, reported).await?;
        }
        let links = self.shard.links().await.unwrap_or_default();
        let links = self.link_reports(links);
        if links != reported.links {
            session.send(&ToCoordinator::Links { links: links.clone() }).await?;
            reported.links = links;
        }
        Ok(())
    }

    async fn report_endpoints(
        &self,
        session: &mut Session,
        reported: &mut Reported,
    ) -> Result<(), SessionError> {
        // Before the first netmap, this node does not know which of its addresses are inside the mesh.
        let candidates = if self.view.is_some() { self.candidates() } else { return Ok(()) };
        if candidates != reported.endpoints {
            session.send(&ToCoordinator::Endpoints { candidates: candidates.clone() }).await?;
            reported.endpoints = candidates;
        }
        Ok(())
    }

    /// Every address of this host that is not inside the mesh, then what the coordinator saw.
    fn candidates(&self) -> Vec<SocketAddr> {
        let inside = |ip: IpAddr| self.plan.own.iter().any(|prefix| prefix.contains(ip));
        let local = host::local_addresses(&self.config.interface);
        let local = local.iter().map(|address| SocketAddr::new(address.ip, self.port));
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for candidate in local.chain(self.observed.iter().copied()) {
            if !inside(candidate.ip()) && !candidates.contains(&candidate) && candidates.len() < MAX_ENDPOINTS
            {
                candidates.push(candidate);
            }
        }
        candidates
    }

    fn link_reports(&self, links: Vec<LinkState>) -> Vec<LinkReport> {
        let (now, wall_clock) = (Instant::now(), UnixTime::from(SystemTime::now()).as_millis());
        let Some(view) = &self.view else { return Vec::new() };
        let ids: std::collections::BTreeMap<_, _> =
            view.peers.values().map(|peer| (peer.wireguard_key, peer.id)).collect();
        let report = |link: LinkState| {
            let age = |at| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
            // Whole seconds, so that a clock that is adjusted does not look like another handshake each time.
            let at = |at| UnixTime::from_millis(wall_clock.saturating_sub(age(at)) / 1000 * 1000);
            Some(LinkReport {
                peer: *ids.get(&link.peer)?,
                endpoint: link.endpoint,
                rtt_ms: link.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                last_handshake: link.last_handshake.map(at),
                rx_bytes: link.rx_bytes,
                tx_bytes: link.tx_bytes,
            })
        };
        links.into_iter().filter_map(report).collect()
    }
}

fn hostname() -> Option<NodeName> {
    NodeName::from_hostname(nix::unistd::gethostname().ok()?.to_str()?)
}
