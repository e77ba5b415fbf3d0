//! The agent itself: keeps a session with the coordinator, and this host as the netmap says.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::{Duration, Instant},
};

use carrick_dataplane::LinkState;
use carrick_trust::{Deadlines, Distrust, Leases, Member, Question as LogQuestion, View};
use carrick_types::{Cidr, ClusterName, LeaseProfile, NodeId};
use carrick_wire::session::{LinkReport, MAX_ENDPOINTS, RefusalCode, ToCoordinator, ToNode};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    Config, Enrolment, NodeError,
    attester::AttesterError,
    backoff::Backoff,
    gossip::{self, Gossip},
    host,
    identity::{Identity, Progress, Question, now},
    netlink::{Interface, MARK},
    plan::{Plan, Standing, plan},
    routes,
    session::{Opening, Session, SessionError},
    shard::{Command, Shards},
    tun::Tun,
    uapi,
    udp::UdpSockets,
};

/// How often links are reported, where they changed.
const REPORT: Duration = Duration::from_secs(1);

/// How often, in reports, this host's addresses are looked at, and keys and evidence for their age.
const LOOK_AROUND: u64 = 5;

/// How often, in reports, the coordinator is asked where datagrams come from.
const ASK_STUN: u64 = 25;

/// A session that held so long was a good one: the next attempt comes soon.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// How often the coordinator is asked about a head of the log that a peer told of, and how often to ask for evidence of a new key. Together
/// they stay below what a coordinator puts up with (one in ten seconds): no peer can talk a node into losing its session.
const ASK_LOG: Duration = Duration::from_secs(15);
const ASK_RENEWAL: Duration = Duration::from_secs(60);

/// How often, in reports, peers are told of the head of the log.
const GOSSIP: u64 = 30;

pub(crate) async fn enrol(config: &Config) -> Result<Enrolment, NodeError> {
    let mut identity = Identity::open(config)?;
    let mut opening = Opening::connect(identity.coordinates(false)).await?;
    let question = identity.consider(&opening.challenge, &opening.exporter).await?;
    let (question, evidence) = opening.gather(question).await?;
    let hello = identity.hello(&question, evidence, None, &config.version);
    let mut session = opening.introduce(hello).await?;
    identity.welcomed(&session.welcome)?;
    let ToNode::Netmap(netmap) = session.next().await? else {
        return Err(SessionError::OutOfTurn("a netmap").into());
    };
    identity.witness.handle_netmap(netmap, now()).map_err(SessionError::from)?;
    identity.remember();
    session.close().await;
    let own = &identity.witness.view().ok_or(SessionError::OutOfTurn("a netmap"))?.own;
    Ok(Enrolment {
        name: identity.membership.name.clone(),
        cluster: identity.membership.cluster.clone(),
        overlay_ips: vec![own.overlay_v4.into(), own.overlay_v6.into()],
    })
}

pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    let identity = Identity::open(&config)?;
    let _only = host::claim().map_err(|_| NodeError::NotAlone)?;
    let tun = Tun::open(&config.interface)?;
    let sockets = UdpSockets::bind(config.listen_port, MARK).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            NodeError::PortTaken(config.listen_port)
        } else {
            NodeError::Socket(config.listen_port, error)
        }
    })?;
    let port = sockets.port();
    let interface = Interface::up(tun.index(), config.mtu).await?;
    let secret = identity.keys.wireguard.clone();
    let (shard, failure) = match Shards::start(&secret, config.mtu, tun, sockets, config.shards) {
        Ok(started) => started,
        Err(error) => {
            interface.down().await?;
            return Err(NodeError::PacketPath(error));
        }
    };
    let public_key = identity.keys.wireguard.public();
    let looked_at = uapi::Server::bind(&config.interface)
        .inspect_err(|error| info!(%error, "`wg show` will not answer"))
        .map(|server| tokio::spawn(server.serve(shard.commands(), uapi::Access::ReadOnly)));
    let routes = tokio::spawn(routes::follow(shard.commands()));
    info!(interface = config.interface, port, %public_key, "node agent started");

    let mut agent = Agent {
        identity,
        config,
        port,
        shard,
        interface,
        leases: Leases::new(),
        gossip: None,
        plan: Plan::default(),
        planned: Instant::now(),
        observed: BTreeSet::new(),
        profiles: BTreeSet::new(),
        doubted: BTreeSet::new(),
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
    if let Ok(looked_at) = looked_at {
        looked_at.abort();
        // Its socket is gone with it.
        let _ = looked_at.await;
    }
    routes.abort();
    shard.stop().await;
    let down = interface.down().await;
    info!("node agent stopped");
    outcome.and(down.map_err(NodeError::from))
}

struct Agent {
    identity: Identity,
    config: Config,
    port: u16,
    shard: Shards,
    interface: Interface,
    leases: Leases,
    gossip: Option<Gossip>,
    plan: Plan,
    /// As of which moment.
    planned: Instant,
    /// Where the coordinator saw this node's datagrams, or its session, come from.
    observed: BTreeSet<SocketAddr>,
    /// The lease profiles that the plan was made with.
    profiles: BTreeSet<LeaseProfile>,
    /// The peers that were refused when the plan was made.
    doubted: BTreeSet<NodeId>,
    warned_of_forwarding: bool,
}

/// What was said in a session.
#[derive(Default)]
struct Said {
    /// Whether the coordinator has told of the mesh.
    begun: bool,
    endpoints: Vec<SocketAddr>,
    links: Vec<LinkReport>,
    heartbeats: u64,
    /// What the coordinator was asked about a head of the log that a peer told of.
    asked: Option<LogQuestion>,
    /// What is to be proven once the coordinator has made a credential.
    waiting: Option<Question>,
    /// When the coordinator was last asked that.
    last_asked: Option<Instant>,
    /// When the coordinator was last asked for a request for evidence.
    last_renewal: Option<Instant>,
}

/// Evidence in the making.
type Gathering = JoinHandle<Result<Progress, AttesterError>>;

impl Agent {
    /// Opens one session after another. Ends only where going on makes no sense.
    async fn serve(&mut self) -> Result<(), NodeError> {
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            let error = match self.open().await {
                Ok(session) => NodeError::Session(self.attend(session).await),
                Err(error) => error,
            };
            if matches!(error, NodeError::Session(SessionError::Distrusted(Distrust::Fork { .. }))) {
                error!(%error, "the coordinator's log is not the one that this node, or a peer, has seen");
            }
            self.leases.handle_loss();
            self.judge(error)?;
            self.follow().await;
            if since.elapsed() >= GOOD_SESSION {
                backoff = Backoff::new();
            }
            let mut random = [0; 4];
            // Without randomness, the longest wait.
            let random = getrandom::fill(&mut random).map_or(u32::MAX, |()| u32::from_ne_bytes(random));
            let pause = sleep(backoff.next(random));
            self.while_leases_last(pause).await;
        }
    }

    async fn open(&mut self) -> Result<Session, NodeError> {
        let connect = Opening::connect(self.identity.coordinates(true));
        let mut opening = self.while_leases_last(connect).await?;
        let question = self.identity.consider(&opening.challenge, &opening.exporter).await?;
        let (question, evidence) = self.while_leases_last(opening.gather(question)).await?;
        let revision = self.view().map(|view| view.revision);
        let hello = self.identity.hello(&question, evidence, revision, &self.config.version);
        let session = match self.while_leases_last(opening.introduce(hello)).await {
            // The next key was granted, and the answer was lost.
            Err(SessionError::Refused(refusal))
                if refusal.code == RefusalCode::KeyTaken && self.identity.keys.next.is_some() =>
            {
                self.rotate().await;
                return Err(SessionError::Refused(refusal).into());
            }
            session => session?,
        };
        self.identity.welcomed(&session.welcome)?;
        Ok(session)
    }

    /// Waits for something, and meanwhile lets every lease lapse in time.
    async fn while_leases_last<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = pin!(something);
        loop {
            let lapse = self.next_lapse();
            tokio::select! {
                done = &mut something => return done,
                () = sleep_until(lapse.into()) => self.follow().await,
            }
        }
    }

    fn view(&self) -> Option<&View> {
        self.identity.witness.view()
    }

    /// A node that is revoked, or that never was welcome, ends; any other keeps its tunnels and tries again.
    fn judge(&self, error: NodeError) -> Result<(), NodeError> {
        let running = self.view().is_some();
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
            | NodeError::Executable(_)
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
        let mut said = Said::default();
        let mut gathering: Option<Gathering> = None;
        let mut ticks = interval(REPORT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = self.heartbeats();
        let mut count = 0_u64;
        loop {
            let lapse = self.next_lapse();
            let step = tokio::select! {
                biased;
                news = session.next() => match news {
                    Ok(news) => {
                        let pace = self.identity.witness.bundle().map(|bundle| bundle.get().heartbeat());
                        let step = self.hear(news, &mut session, &mut said, &mut gathering).await;
                        if self.identity.witness.bundle().map(|bundle| bundle.get().heartbeat()) != pace {
                            beats = self.heartbeats();
                        }
                        step
                    }
                    Err(error) => Err(error),
                },
                _ = beats.tick() => self.beat(&mut session, &mut said).await,
                () = sleep_until(lapse.into()) => {
                    self.follow().await;
                    Ok(())
                }
                gathered = gathered(&mut gathering) => {
                    gathering = None;
                    self.show(gathered, &mut session, &mut said).await
                }
                Some(address) = self.shard.observed.recv() => {
                    self.observed.insert(address);
                    self.report_endpoints(&mut session, &mut said).await
                }
                _ = ticks.tick() => {
                    let step = self.report(&mut session, &mut said, count).await;
                    count += 1;
                    step
                }
                // Last: a peer that never stops telling must not keep this node from anything else.
                note = heard(self.gossip.as_ref()) => self.compare(&note, &mut session, &mut said).await,
            };
            if let Err(error) = step {
                if let Some(gathering) = gathering {
                    gathering.abort();
                }
                return error;
            }
        }
    }

    /// The pace of heartbeats; the first is due at once.
    fn heartbeats(&self) -> tokio::time::Interval {
        let pace = self.identity.witness.bundle().map(|bundle| bundle.get().heartbeat());
        let mut beats = interval(pace.unwrap_or(LeaseProfile::Available.heartbeat()));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats
    }

    /// Takes news from the coordinator.
    async fn hear(
        &mut self,
        news: ToNode,
        session: &mut Session,
        said: &mut Said,
        gathering: &mut Option<Gathering>,
    ) -> Result<(), SessionError> {
        let witness = &mut self.identity.witness;
        match news {
            ToNode::Netmap(netmap) => {
                debug!(revision = %netmap.revision, "whole netmap");
                witness.handle_netmap(netmap, now())?;
                self.begin(session, said);
                self.believe().await;
            }
            ToNode::Delta(delta) => {
                debug!(from = %delta.from, to = %delta.to, "netmap changes");
                witness.handle_delta(delta, now())?;
                self.begin(session, said);
                self.believe().await;
            }
            ToNode::Bundle(bundle) => {
                witness.handle_bundle(&bundle, now())?;
                self.believe().await;
            }
            ToNode::Beat(beat) => {
                // Of a netmap that is newer than the one at hand, nothing is known yet.
                if witness.view().is_some_and(|view| beat.revision <= view.revision) {
                    self.leases.handle_beat(beat.sequence);
                    if self.plan.restrained {
                        self.follow().await;
                    } else {
                        self.revise().await;
                    }
                }
            }
            ToNode::Attest(demand) => {
                witness.handle_demand(&demand, now())?;
                self.identity.remember();
                let question = self.identity.question(&demand.request, &session.exporter).await?;
                said.waiting = None;
                *gathering = Some(tokio::spawn(question.begin()));
            }
            ToNode::Credential(credential) => {
                // Otherwise the coordinator has lost patience meanwhile, and asked again.
                if let Some(question) = said.waiting.take() {
                    *gathering = Some(tokio::spawn(async move { question.resume(&credential).await }));
                }
            }
            ToNode::Proven(proven) => {
                if let Some(question) = said.asked.take()
                    && let Some(again) = witness.handle_proven(question, &proven.proof)?
                {
                    return self.ask(again, session, said).await;
                }
            }
            ToNode::Challenge(_) | ToNode::Welcome(_) | ToNode::Refused(_) => {
                return Err(SessionError::OutOfTurn("news"));
            }
        }
        Ok(())
    }

    /// The first netmap, or delta, of a session vouches as of the hello that it follows.
    fn begin(&mut self, session: &Session, said: &mut Said) {
        if !std::mem::replace(&mut said.begun, true) {
            self.leases.handle_session(session.since);
        }
    }

    /// Acts upon what is believed now.
    async fn believe(&mut self) {
        self.identity.remember();
        let granted = self.view().map(|view| view.own.wireguard_key);
        if granted.is_some() && granted == self.identity.keys.next.as_ref().map(|next| next.public()) {
            self.rotate().await;
        }
        self.follow().await;
    }

    /// Puts the key that follows to use.
    async fn rotate(&mut self) {
        self.identity.rotate();
        let secret = self.identity.keys.wireguard.clone();
        info!(public_key = %secret.public(), "WireGuard key rotated");
        // Fails only when the packet path has ended, which `run` is told as well.
        let _ = self.shard.command(Command::Rotate(secret)).await;
    }

    async fn beat(&mut self, session: &mut Session, said: &mut Said) -> Result<(), SessionError> {
        said.heartbeats += 1;
        let heartbeat = self.identity.heartbeat(&session.exporter, said.heartbeats);
        self.leases.handle_heartbeat(said.heartbeats, Instant::now());
        session.send(&ToCoordinator::Heartbeat(heartbeat)).await
    }

    /// Shows evidence that was asked for. Where there is none, the coordinator asks again.
    async fn show(
        &mut self,
        gathered: Result<Progress, AttesterError>,
        session: &mut Session,
        said: &mut Said,
    ) -> Result<(), SessionError> {
        match gathered {
            Ok(Progress::Done(question, evidence)) => {
                let proof = self.identity.proof(&question, evidence);
                session.send(&ToCoordinator::Attested(Box::new(proof))).await
            }
            Ok(Progress::Waiting(question, keys)) => {
                said.waiting = Some(question);
                session.send(&ToCoordinator::Activate(keys)).await
            }
            Err(error) => {
                warn!(%error, "no evidence to show");
                Ok(())
            }
        }
    }

    /// Compares the head of the log that a peer tells of with the ones that were seen here. One question at a time: a peer that tells
    /// nonsense must not keep the coordinator busy.
    async fn compare(
        &mut self,
        note: &str,
        session: &mut Session,
        said: &mut Said,
    ) -> Result<(), SessionError> {
        match self.identity.witness.handle_gossip(note)? {
            Some(question) if said.asked.is_none() => self.ask(question, session, said).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn ask(
        &self,
        question: LogQuestion,
        session: &mut Session,
        said: &mut Said,
    ) -> Result<(), SessionError> {
        // What is left out now is told again.
        if said.last_asked.is_some_and(|last| last.elapsed() < ASK_LOG) {
            return Ok(());
        }
        let (old, new) = question.sizes();
        said.asked = Some(question);
        said.last_asked = Some(Instant::now());
        session.send(&ToCoordinator::Prove { old, new }).await
    }

    /// What the leases of a profile allow at a moment.
    fn standing(&self, profile: LeaseProfile, now: Instant) -> Standing {
        let Deadlines { pass, admit } = self.leases.deadlines(profile);
        let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        match (over(pass), over(admit)) {
            (true, _) => Standing::Lapsed,
            (false, true) => Standing::Frozen,
            (false, false) => Standing::Current,
        }
    }

    /// When a lease changes its standing next; in an hour at the latest. That counts from when the plan was made, which takes a while
    /// to carry out: what has lapsed meanwhile is due now.
    fn next_lapse(&self) -> Instant {
        let used = self.profiles.iter().map(|profile| self.leases.deadlines(*profile));
        let ahead = used.flat_map(|Deadlines { pass, admit }| [pass, admit]).flatten();
        let next = ahead.filter(|deadline| *deadline > self.planned).min();
        next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    /// Tells the packet path when a lease ends next, so that it does so whatever becomes of this side.
    async fn revise(&self) {
        let ends = self.profiles.iter().filter_map(|profile| self.leases.deadlines(*profile).pass);
        let _ = self.shard.command(Command::ReviseBy(ends.filter(|end| *end > self.planned).min())).await;
    }

    /// Makes this host what is believed of the mesh: first who may come in, then where packets go.
    async fn follow(&mut self) {
        let witness = &self.identity.witness;
        let (Some(view), Some(bundle)) = (witness.view(), witness.bundle()) else { return };
        // The shorter of both leases holds for a tunnel: this node's own, and its peer's.
        let profile_in = |cluster: &ClusterName| bundle.get().policy(cluster).lease;
        let own = profile_in(&self.identity.membership.cluster);
        let profile = |peer: &Member| own.max(profile_in(&peer.grant.cluster));
        let profiles = view.members.values().map(profile).collect();
        let local = host::local_addresses(&self.config.interface);
        let networks: Vec<Cidr> = local.iter().map(|address| address.network).collect();
        let now = Instant::now();
        let new = plan(view, &networks, |peer| self.standing(profile(peer), now));
        for (prefix, peer, network) in new.hidden.iter().filter(|hidden| !self.plan.hidden.contains(hidden)) {
            warn!(%prefix, %peer, %network, "prefix of a peer not routed: this host is in that network itself");
        }
        for (peer, doubt) in view.doubted.iter().filter(|(id, _)| !self.doubted.contains(*id)) {
            warn!(%peer, %doubt, "peer refused");
        }
        if new.restrained && !self.plan.restrained {
            warn!("leases lapsed: the coordinator does not vouch for the mesh");
        }
        if !self.warned_of_forwarding && !view.own.prefixes.is_empty() && host::forwards() == (false, false) {
            warn!(
                "this host does not forward: `sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`"
            );
            self.warned_of_forwarding = true;
        }
        let (revision, doubted) = (view.revision, view.doubted.keys().copied().collect());
        let overlay = view.own.overlay_v4;
        let change = new.change_from(&self.plan);
        // Both fail only when the packet path has ended, which `run` is told as well.
        let _ = self.shard.command(Command::SetOwn(new.own.clone())).await;
        let _ = self.shard.command(Command::ChangePeers(change)).await;
        (self.planned, self.profiles) = (now, profiles);
        self.revise().await;
        if let Err(error) = self.interface.apply(&new).await {
            warn!(%error, "interface not as it should be");
        }
        if self.gossip.as_ref().is_none_or(|gossip| gossip.own() != overlay) {
            let opened = Gossip::open(&self.config.interface, overlay);
            self.gossip = opened.inspect_err(|error| warn!(%error, "no gossip about the log")).ok();
        }
        info!(%revision, peers = new.peers.len(), "netmap applied");
        self.doubted = doubted;
        self.plan = new;
    }

    async fn report(
        &mut self,
        session: &mut Session,
        said: &mut Said,
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
            self.report_endpoints(session, said).await?;
            if self.identity.witness.handle_timeout(now()) {
                self.follow().await;
            }
            let asked = said.last_renewal.is_some_and(|last| last.elapsed() < ASK_RENEWAL);
            if self.identity.prepare_rotation() && !asked {
                said.last_renewal = Some(Instant::now());
                session.send(&ToCoordinator::Renew).await?;
            }
        }
        let links = self.shard.links().await.unwrap_or_default();
        if count.is_multiple_of(GOSSIP) {
            self.tell_peers(&links);
        }
        let links = self.link_reports(links);
        if links != said.links {
            session.send(&ToCoordinator::Links { links: links.clone() }).await?;
            said.links = links;
        }
        Ok(())
    }

    async fn report_endpoints(&self, session: &mut Session, said: &mut Said) -> Result<(), SessionError> {
        // Before the first netmap, this node does not know which of its addresses are inside the mesh.
        let candidates = if self.view().is_some() { self.candidates() } else { return Ok(()) };
        if candidates != said.endpoints {
            session.send(&ToCoordinator::Endpoints { candidates: candidates.clone() }).await?;
            said.endpoints = candidates;
        }
        Ok(())
    }

    /// Tells every peer with a tunnel the head of the log that this node has seen. It makes no tunnel for that.
    fn tell_peers(&self, links: &[LinkState]) {
        let (Some(gossip), Some(view), Some(note)) =
            (&self.gossip, self.view(), self.identity.witness.checkpoint())
        else {
            return;
        };
        let has_tunnel = |member: &&Member| links.iter().any(|link| link.peer == member.grant.wireguard_key);
        for address in view.members.values().filter(has_tunnel).filter_map(gossip::address) {
            gossip.tell(address, note);
        }
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
        let (now, wall_clock) = (Instant::now(), now().as_millis());
        let Some(view) = self.view() else { return Vec::new() };
        let ids: std::collections::BTreeMap<_, _> =
            view.members.iter().map(|(id, member)| (member.grant.wireguard_key, *id)).collect();
        let report = |link: LinkState| {
            let age = |at| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
            // Whole seconds, so that a clock that is adjusted does not look like another handshake each time.
            let at =
                |at| carrick_types::UnixTime::from_millis(wall_clock.saturating_sub(age(at)) / 1000 * 1000);
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

/// The evidence that is being gathered; for ever where none is.
async fn gathered(gathering: &mut Option<Gathering>) -> Result<Progress, AttesterError> {
    match gathering {
        None => std::future::pending().await,
        Some(task) => match task.await {
            Ok(gathered) => gathered,
            Err(error) => {
                let kind = carrick_attest::Kind::Identity;
                Err(AttesterError::Device { kind, why: format!("the attester ended: {error}") })
            }
        },
    }
}

/// What a peer tells of the log; for ever where nobody can.
async fn heard(gossip: Option<&Gossip>) -> String {
    loop {
        match gossip {
            None => std::future::pending().await,
            Some(gossip) => match gossip.hear().await {
                Some(note) => return note,
                // Not text, or the interface is down for the moment.
                None => sleep(REPORT).await,
            },
        }
    }
}
