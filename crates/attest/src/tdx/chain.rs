//! Chains of Intel's certificates, and what a PCK certificate says of its platform.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use carrick_types::UnixTime;
use x509_parser::der_parser::{ber::BerObject, parse_der};

use crate::x509::{Certificate, X509Error};

/// The most certificates in one chain.
const MAX_CHAIN: usize = 4;

/// Intel's extension of PCK certificates: an object identifier for each value.
const SGX_EXTENSION: &str = "1.2.840.113741.1.13.1";

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----";

/// What a PCK certificate says of its platform.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Platform {
    /// Family, model, stepping, platform and SKU: which TCB info speaks of it.
    pub(super) fmspc: [u8; 6],
    /// Which provisioning certification enclave.
    pub(super) pce_id: [u8; 2],
    /// The SVNs of the platform's parts.
    pub(super) components: [u8; 16],
    /// The SVN of the provisioning certification enclave.
    pub(super) pce_svn: u16,
}

/// The certificates of a PEM text in its one spelling: blocks of 64 columns right behind each other, and nothing else.
pub(super) fn read_pem(text: &str) -> Result<Vec<Certificate>, X509Error> {
    let malformed = || X509Error::Malformed("chain of certificates in PEM of 64 columns");
    let mut rest = text;
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        if certificates.len() == MAX_CHAIN {
            return Err(malformed());
        }
        let (lines, behind) =
            rest.strip_prefix(BEGIN).and_then(|rest| rest.split_once(END)).ok_or_else(malformed)?;
        let der = STANDARD.decode(lines.replace('\n', "")).map_err(|_| malformed())?;
        if lines != in_columns(&der) {
            return Err(malformed());
        }
        certificates.push(Certificate::parse(&der)?);
        rest = match behind {
            "" => "",
            _ => behind.strip_prefix('\n').ok_or_else(malformed)?,
        };
    }
    if certificates.is_empty() { Err(malformed()) } else { Ok(certificates) }
}

/// The PEM text of certificates in DER.
#[cfg(any(test, feature = "testing"))]
pub(super) fn write_pem(certificates: &[&[u8]]) -> String {
    certificates.iter().map(|der| format!("{BEGIN}{}{END}\n", in_columns(der))).collect()
}

fn in_columns(der: &[u8]) -> String {
    // 48 bytes make one line of 64 columns.
    der.chunks(48).map(|line| STANDARD.encode(line) + "\n").collect()
}

/// The way of a chain, leaf first, to a pinned root, that end included. The chain holds exactly the certificates of that way, with
/// its root or without; the leaf is nobody's issuer.
///
/// # Errors
/// [`X509Error`].
pub(super) fn path<'a>(
    chain: &'a [Certificate],
    roots: &'a [Certificate],
    at: UnixTime,
) -> Result<Vec<&'a Certificate>, X509Error> {
    let Some((leaf, issuers)) = chain.split_first() else {
        return Err(X509Error::Malformed("chain of certificates"));
    };
    let path = leaf.path_to(issuers, roots, at)?;
    let same = path.iter().zip(chain).all(|(on, given)| *on == given);
    if leaf.is_ca() || !same || path.len() < chain.len() || path.len() > chain.len() + 1 {
        return Err(X509Error::NoPath(leaf.subject().to_owned()));
    }
    Ok(path)
}

/// Whether a certificate's subject has this common name.
pub(super) fn is_named(certificate: &Certificate, name: &str) -> bool {
    certificate.subject().split(", ").any(|part| part.strip_prefix("CN=") == Some(name))
}

impl Platform {
    /// Reads Intel's extension of a PCK certificate. `None` where it has none, or one that misses something.
    pub(super) fn read(certificate: &Certificate) -> Option<Self> {
        let (rest, extension) = parse_der(certificate.extension(SGX_EXTENSION)?).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let tcb = find(&extension, "2")?;
        let mut components = [0; 16];
        for (component, number) in components.iter_mut().zip(1..) {
            *component = find(tcb, &format!("2.{number}"))?.as_u32().ok()?.try_into().ok()?;
        }
        Some(Self {
            fmspc: find(&extension, "4")?.as_slice().ok()?.try_into().ok()?,
            pce_id: find(&extension, "3")?.as_slice().ok()?.try_into().ok()?,
            components,
            pce_svn: find(tcb, "2.17")?.as_u32().ok()?.try_into().ok()?,
        })
    }
}

/// The one value of a sequence of pairs whose object identifier is this one under Intel's.
fn find<'a, 'b>(pairs: &'b BerObject<'a>, below: &str) -> Option<&'b BerObject<'a>> {
    let wanted = format!("{SGX_EXTENSION}.{below}");
    let mut found = pairs.as_sequence().ok()?.iter().filter_map(|pair| match pair.as_sequence() {
        Ok(pair) => match pair.as_slice() {
            [oid, value] if oid.as_oid().is_ok_and(|oid| oid.to_id_string() == wanted) => Some(value),
            _ => None,
        },
        Err(_) => None,
    });
    let value = found.next();
    if found.next().is_some() { None } else { value }
}
