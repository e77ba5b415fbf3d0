//! Accepts connections and serves HTTP on them.

use std::{io, net::SocketAddr, os::fd::OwnedFd, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use carrick_wire::session::EXPORTER_LABEL;
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::{
    connection::{Connection, Gate, Slot},
    error::StartError,
    metrics::Metrics,
};

/// How long a client may take for its TLS handshake, and again for the head of each request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const REQUEST_HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last whose other end shows no credential.
const STRANGER: Duration = Duration::from_secs(60);

const MAX_REQUEST_HEAD: usize = 64 * 1024;

/// What every connection is served with.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) tls: TlsAcceptor,
    pub(crate) router: Router,
    pub(crate) gate: Gate,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) connections: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// Binds the TCP socket of `--listen`. `[::]` takes IPv4, too.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.nonblocking(),
            Some(socket2::Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| bind_error(address, "--listen", source))
}

/// Takes over a socket that listens already.
pub(crate) fn adopt(socket: OwnedFd) -> Result<TcpListener, StartError> {
    let adopt = || {
        let socket = socket2::Socket::from(socket);
        if !socket.is_listener()? || socket.r#type()? != socket2::Type::STREAM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    };
    adopt().map_err(StartError::ListenFd)
}

/// Says which option to change when an address cannot be bound.
pub(crate) fn bind_error(address: SocketAddr, option: &'static str, source: io::Error) -> StartError {
    if source.kind() == io::ErrorKind::AddrInUse {
        StartError::AddressInUse(address, option)
    } else {
        StartError::Listen { address, option, source }
    }
}

/// Accepts until shutdown.
pub(crate) async fn accept(listener: TcpListener, server: Server) {
    loop {
        let accepted = tokio::select! {
            () = server.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                match server.gate.enter(peer.ip()) {
                    Some(slot) => drop(server.connections.spawn(serve(stream, peer, slot, server.clone()))),
                    None => {
                        server.metrics.turned_away();
                        debug!(%peer, "too many connections");
                    }
                }
            }
            Err(error) => {
                // Out of file descriptors, or the client went away at once. Others are served meanwhile.
                warn!(%error, "connection not accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, slot: Slot, server: Server) {
    if let Err(error) = try_serve(stream, peer, slot, server).await {
        debug!(%peer, %error, "connection ended");
    }
}

async fn try_serve(
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    server: Server,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let tls = timeout(HANDSHAKE, server.tls.accept(stream)).await??;
    let exporter = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None)?;
    let connection = Arc::new(Connection { slot, peer, exporter });

    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection.clone());
        server.router.clone().oneshot(request)
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD)
        .max_buf_size(MAX_REQUEST_HEAD)
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades();
    let mut http = pin!(http);
    let mut patience = pin!(sleep(STRANGER));
    let mut patient = true;
    loop {
        tokio::select! {
            served = http.as_mut() => return Ok(served?),
            () = patience.as_mut(), if patient => {
                if connection.slot.is_stranger() {
                    return Err("no credential in time".into());
                }
                patient = false;
            }
            () = server.shutdown.cancelled() => break,
        }
    }
    http.as_mut().graceful_shutdown();
    Ok(http.await?)
}
