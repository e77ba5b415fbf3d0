//! TLS to a coordinator whose certificate authority is pinned.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use carrick_types::CaPin;
use carrick_wire::session::EXPORTER_LABEL;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::url::CoordinatorUrl;

/// The name in every coordinator's certificate, whatever it is called on the network: its URL may change, its authority may not.
const SERVER_NAME: &str = "coordinator.carrick.internal";

/// How long one address has to accept a connection, and then to finish the TLS handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// A TLS connection to the pinned coordinator.
#[derive(Debug)]
pub struct Connection {
    /// What is said here, only the pinned coordinator hears.
    pub stream: TlsStream<TcpStream>,
    /// 32 bytes that only the two ends of this very TLS session know (RFC 5705, label
    /// [`EXPORTER_LABEL`]): what is bound to them is worth nothing in another.
    pub exporter: [u8; 32],
    /// The coordinator's address.
    pub remote: SocketAddr,
    /// The address of this host that it sees, where nothing translates it on the way.
    pub local: SocketAddr,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address answered.
    #[error("cannot reach the coordinator at {url}: {source}")]
    Unreachable {
        /// Where.
        url: CoordinatorUrl,
        /// Of the last address that was tried.
        source: io::Error,
    },
    /// Something answered, and it is not the pinned coordinator.
    #[error(
        "{url} is not the coordinator that the token or credential pins: its certificate is of another authority; check the address, or get a new token or credential"
    )]
    WrongCertificate {
        /// Where.
        url: CoordinatorUrl,
    },
    /// Something answered that does not speak TLS as it should.
    #[error("TLS with the coordinator at {url} failed: {source}")]
    Tls {
        /// Where.
        url: CoordinatorUrl,
        /// How.
        source: io::Error,
    },
}

/// Connects to the coordinator at `url` and makes sure that it is the pinned one. Datagrams carry the firewall mark, where one
/// is given (needs `CAP_NET_ADMIN`).
///
/// # Errors
/// [`ConnectError`], after a few seconds at the most for each address that the name stands for.
pub async fn connect(
    url: &CoordinatorUrl,
    pin: CaPin,
    mark: Option<u32>,
) -> Result<Connection, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { url: url.clone(), source };
    let tcp = open_tcp(url, mark).await.map_err(unreachable)?;
    let (remote, local) = (tcp.peer_addr().map_err(unreachable)?, tcp.local_addr().map_err(unreachable)?);
    let tls_error = |source: io::Error| {
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            // A wrong clock, here or there, makes no impostor.
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            )) => ConnectError::Tls { url: url.clone(), source },
            Some(rustls::Error::InvalidCertificate(_)) => ConnectError::WrongCertificate { url: url.clone() },
            _ => ConnectError::Tls { url: url.clone(), source },
        }
    };
    let config = client_config(pin).map_err(|error| tls_error(io::Error::other(error)))?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| tls_error(io::Error::other(error)))?;
    let stream = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, tcp))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(tls_error)?;
    let exporter = stream
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|error| tls_error(io::Error::other(error)))?;
    Ok(Connection { stream, exporter, remote, local })
}

/// Tries every address in the resolver's order.
async fn open_tcp(url: &CoordinatorUrl, mark: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((url.host(), url.port())).await? {
        match timeout(PATIENCE, open_tcp_to(address, mark)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn open_tcp_to(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn client_config(pin: CaPin) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(PinnedAuthority { pin, provider: provider.clone() });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Accepts a chain that ends in the one certificate with the pinned hash, which the server sends along, and checks that
/// chain as any other.
#[derive(Debug)]
struct PinnedAuthority {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| CaPin::of(certificate) == self.pin)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
