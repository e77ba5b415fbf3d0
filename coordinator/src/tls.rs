//! The mesh's own certificate authority, and the certificate that it gives the coordinator at each start.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use carrick_types::CaPin;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
};
use time::{Duration, OffsetDateTime};

/// The name that the coordinator's certificate always has; clients verify it whatever address they called.
pub(crate) const SERVER_NAME: &str = "coordinator.carrick.internal";

/// The authority whose certificate tokens and credentials pin.
pub(crate) struct Authority {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

/// A key or certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Use(#[from] rustls::Error),
    #[error("no certificate in PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// A new private key in PEM (PKCS #8). ECDSA on P-256: browsers take no Ed25519.
pub(crate) fn new_key() -> Result<String, TlsError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
}

/// A new certificate, in PEM, of the authority that has this key.
pub(crate) fn new_authority(key: &str) -> Result<String, TlsError> {
    Ok(authority_params().self_signed(&KeyPair::from_pem(key)?)?.pem())
}

impl Authority {
    /// Reads key and certificate from PEM, and checks that they belong together.
    pub(crate) fn read(key: &str, certificate: &str) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(key)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        let key_der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        rustls::sign::CertifiedKey::from_der(
            vec![certificate.clone()],
            key_der,
            &aws_lc_rs::default_provider(),
        )?;
        Ok(Self { key, certificate })
    }

    pub(crate) fn pin(&self) -> CaPin {
        CaPin::of(&self.certificate)
    }

    /// What the coordinator serves with: a fresh certificate for these names and addresses, and the authority's behind it.
    /// TLS 1.3 only, so that the exporter binds to the session whatever the client does.
    pub(crate) fn server_config(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<ServerConfig, TlsError> {
        let (certificate, key) = self.issue(names, addresses)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate, self.certificate.clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn issue(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Carrick coordinator");
        (params.not_before, params.not_after) = valid_for(Duration::days(825));
        for name in [SERVER_NAME, "localhost"].into_iter().chain(names.iter().map(String::as_str)) {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(authority_params(), &self.key);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok((certificate.into(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Carrick mesh authority");
    (params.not_before, params.not_after) = valid_for(Duration::days(20 * 365));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// From a day ago, since clocks differ.
fn valid_for(lifetime: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::from(SystemTime::now());
    (now - Duration::days(1), now + lifetime)
}
