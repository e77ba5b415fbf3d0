//! Puts the parts together, and takes them down.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use carrick_types::MeshId;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    Config, RunError, StartError,
    address::{self, PublicUrl},
    api,
    app::{App, now},
    connection::{Bounds, Gate},
    leases::Leases,
    mesh::{Ended, Mesh},
    metrics::Metrics,
    presence::Presence,
    rate::Rate,
    serve::{self, Server},
    setup::{self, Contents, DataDir, Profile},
    stun,
};

/// How long sessions and requests may take to end once the coordinator is asked to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the store may take to close after that.
const CLOSE: Duration = Duration::from_secs(2);

/// A coordinator whose sockets are bound and whose store is open.
pub struct Coordinator {
    app: Arc<App>,
    listening: SocketAddr,
    listeners: Vec<TcpListener>,
    stun: Vec<UdpSocket>,
    server: Server,
    ended: Ended,
    first_start: bool,
    admin_credential: PathBuf,
    viewer_credential: PathBuf,
}

impl Coordinator {
    /// Binds the sockets and opens the store; makes a new mesh where the data directory has none.
    ///
    /// # Errors
    /// What is in the way, and what to do about it. Nothing runs then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let public = config.public_url.as_deref().map(PublicUrl::parse).transpose()?;
        let data_dir = DataDir::open(&config.data_dir)?;
        let listener = serve::listen(config.listen)?;
        let listening =
            listener.local_addr().map_err(|error| serve::bind_error(config.listen, "--listen", error))?;
        let mut listeners = vec![listener];
        listeners.extend(config.listen_fd.map(serve::adopt).transpose()?);
        let (stun, stun_port) = stun::bind(config.udp)?;

        let (data_dir, contents) = {
            let (overlay, profile) = (config.overlay, config.profile);
            // Keys and fsyncs take a while.
            let read = move || {
                let credential = data_dir.admin_credential();
                let coordinator = address::on_this_host(listening);
                let contents = data_dir.read_or_found(overlay, now(), || {
                    if let Some(path) = &profile {
                        setup::write_profile(
                            path,
                            &Profile { coordinator: &coordinator, credential: &credential },
                        );
                    }
                })?;
                Ok::<_, StartError>((data_dir, contents))
            };
            tokio::task::spawn_blocking(read).await.map_err(|error| StartError::System {
                action: "read the data directory",
                source: std::io::Error::other(error),
            })??
        };
        let Contents { authority, signing_key, operator, store, first_start } = contents;
        let credentials = store.credentials()?;
        let (admin_credential, viewer_credential) =
            (data_dir.admin_credential(), data_dir.viewer_credential());
        let (mesh, ended) = Mesh::start(store, signing_key, data_dir)?;
        let state = mesh.state();

        let local = address::local()
            .map_err(|source| StartError::System { action: "list the interface addresses", source })?;
        let (names, addresses) = address::certified(public.as_ref(), listening, &local);
        let tls = authority
            .server_config(&names, &addresses)
            .map_err(|error| StartError::Certificate(error.to_string()))?;
        let urls = address::urls(public.as_ref(), listening, &local, &state.overlay.ranges());

        let metrics = Arc::new(Metrics::default());
        let shutdown = CancellationToken::new();
        let app = Arc::new(App {
            id: state.mesh,
            ca: authority.pin(),
            urls,
            stun_port,
            version: config.version,
            credentials,
            mesh,
            presence: Presence::new(),
            leases: Leases::new(),
            operator,
            refusals: tokio::sync::Mutex::new(Rate::new(100, 1.0)),
            strangers: tokio::sync::Semaphore::new(1),
            metrics: metrics.clone(),
            last_check: tokio::sync::Mutex::new(None),
            sessions: TaskTracker::new(),
            shutdown: shutdown.clone(),
        });
        let server = Server {
            tls: TlsAcceptor::from(Arc::new(tls)),
            router: api::router(app.clone()),
            gate: Gate::new(Bounds::of(file_descriptors())),
            metrics,
            connections: TaskTracker::new(),
            shutdown,
        };
        info!(mesh = %state.mesh, %listening, stun_port, revision = %state.revision, nodes = state.nodes.len(), "ready");
        Ok(Self {
            app,
            listening,
            listeners,
            stun,
            server,
            ended,
            first_start,
            admin_credential,
            viewer_credential,
        })
    }

    /// Where HTTPS is served.
    pub const fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// The port at which STUN is answered.
    pub fn stun_port(&self) -> u16 {
        self.app.stun_port
    }

    /// The URLs that join tokens name, best first: 1 to 8.
    pub fn urls(&self) -> &[String] {
        &self.app.urls
    }

    /// The mesh that it serves.
    pub fn mesh(&self) -> MeshId {
        self.app.id
    }

    /// The file that holds the credential for everything.
    pub fn admin_credential_file(&self) -> &Path {
        &self.admin_credential
    }

    /// The file that holds the credential for reading.
    pub fn viewer_credential_file(&self) -> &Path {
        &self.viewer_credential
    }

    /// Whether the coordinator holds the operator's key itself.
    pub fn holds_operator_key(&self) -> bool {
        self.app.operator.holds(&self.app.mesh.state().bundle.trusted.operator())
    }

    /// Whether this start made the mesh.
    pub const fn first_start(&self) -> bool {
        self.first_start
    }

    /// Serves until `shutdown`, then for at most 5 seconds more, in which requests are answered and sessions are closed.
    ///
    /// # Errors
    /// [`RunError`] where a part ended that the rest cannot do without.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let Self { app, listeners, stun, server, mut ended, .. } = self;
        let mut tasks = JoinSet::new();
        for listener in listeners {
            let accept = serve::accept(listener, server.clone());
            tasks.spawn(async {
                accept.await;
                "accept"
            });
        }
        for socket in stun {
            let answer = stun::answer(socket, app.shutdown.clone());
            tasks.spawn(async {
                answer.await;
                "STUN"
            });
        }
        let keep = app.leases.clone().keep(app.mesh.clone(), app.shutdown.clone());
        tasks.spawn(async {
            keep.await;
            "leases"
        });
        let renew = keep_bundle_fresh(app.clone());
        tasks.spawn(async {
            renew.await;
            "policy bundle"
        });
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            _ = &mut ended => Err(RunError::OwnerEnded),
            task = tasks.join_next() => match task {
                Some(Ok(name)) => Err(RunError::TaskEnded(name)),
                Some(Err(_)) | None => Err(RunError::TaskEnded("socket")),
            },
        };
        app.shutdown.cancel();
        let (connections, sessions) = (server.connections.clone(), app.sessions.clone());
        connections.close();
        sessions.close();
        let drained = async {
            connections.wait().await;
            sessions.wait().await;
            while tasks.join_next().await.is_some() {}
        };
        if timeout(DRAIN, drained).await.is_err() {
            warn!(connections = connections.len(), sessions = sessions.len(), "not everybody left in time");
        }
        drop((server, app));
        if !matches!(outcome, Err(RunError::OwnerEnded)) && timeout(CLOSE, ended).await.is_err() {
            warn!("the store is still open");
        }
        info!("stopped");
        outcome
    }
}

/// Looks after the policy bundle until the coordinator stops.
async fn keep_bundle_fresh(app: Arc<App>) {
    let mut days = interval(Duration::from_secs(24 * 3600));
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            _ = days.tick() => {}
        }
        if let Err(error) = app.operator.keep_fresh(&app.mesh, now()).await {
            warn!(%error, "the policy bundle was not signed anew");
        }
    }
}

/// How many file descriptors this process may have, after asking for all that it is allowed.
fn file_descriptors() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    }
}
