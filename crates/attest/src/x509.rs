//! X.509 certificates as the vendors of evidence use them (RFC 5280): chains to pinned roots, extensions, revocation lists.
//!
//! Lenient where vendors are (a serial number may be negative), strict where it matters: every signature, name, validity,
//! basic constraint and key usage of a chain is checked, and a critical extension that is not understood refuses its certificate.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use carrick_types::UnixTime;
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
        OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    },
    prelude::FromDer as _,
    revocation_list::CertificateRevocationList,
    signature_algorithm::SignatureAlgorithm,
    x509::AlgorithmIdentifier,
};

/// The longest certificate that is read, in bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// The longest revocation list that is read, in bytes.
pub const MAX_REVOCATION_LIST: usize = 1024 * 1024;

/// The most certificates between a leaf and its root.
const MAX_INTERMEDIATES: usize = 6;

/// Why a certificate, a list or a chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    /// Not DER of the right kind, too long, or with something behind it.
    #[error("this is not a {0}")]
    Malformed(&'static str),
    /// An algorithm that nothing here verifies.
    #[error("the key or signature algorithm of {0} is not taken")]
    Algorithm(String),
    /// Critical, and not understood.
    #[error("{0} has a critical extension that is not understood")]
    CriticalExtension(String),
    /// The issuer's key did not sign it.
    #[error("the signature of {0} does not hold")]
    Signature(String),
    /// Too early or too late.
    #[error("{subject} is valid from {from} to {to}")]
    Validity {
        /// Whose.
        subject: String,
        /// The first moment.
        from: UnixTime,
        /// The last moment.
        to: UnixTime,
    },
    /// Nobody among the given certificates and roots issued it, in a way that holds.
    #[error("{0} does not lead to a pinned root")]
    NoPath(String),
}

/// A key of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: the DER of PKCS #1's `RSAPublicKey`.
    Rsa(Vec<u8>),
    /// ECDSA on P-256: the uncompressed point, 65 bytes.
    P256(Vec<u8>),
    /// ECDSA on P-384: the uncompressed point, 97 bytes.
    P384(Vec<u8>),
}

/// An algorithm of a signature, apart from the curve, which the key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
    /// RSASSA-PSS: the mask made with the same hash, the salt as long as it.
    RsaPss(Hash),
    /// ECDSA.
    Ecdsa(Hash),
}

/// A hash function of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A certificate, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    signed: Signed,
    serial: Vec<u8>,
    subject: Vec<u8>,
    subject_text: String,
    from: UnixTime,
    to: UnixTime,
    key: PublicKey,
    ca: bool,
    path_length: Option<u32>,
    /// `None` where the certificate does not restrict what its key is for.
    signs_certificates: Option<bool>,
    signs_lists: Option<bool>,
    extensions: Vec<(String, Vec<u8>)>,
}

/// A revocation list, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    signed: Signed,
    from: UnixTime,
    to: UnixTime,
    serials: Vec<Vec<u8>>,
}

/// What a certificate authority signed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    body: Vec<u8>,
    issuer: Vec<u8>,
    algorithm: Algorithm,
    signature: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`X509Error::Malformed`], [`X509Error::Algorithm`] or [`X509Error::CriticalExtension`].
    pub fn parse(der: &[u8]) -> Result<Self, X509Error> {
        let malformed = X509Error::Malformed("certificate");
        if der.len() > MAX_CERTIFICATE {
            return Err(malformed);
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| malformed.clone())?;
        if !rest.is_empty() || !has_one_spelling(der, parsed.tbs_certificate.as_ref()) {
            return Err(malformed);
        }
        let subject_text = shown(&parsed.subject().to_string());
        let unknown = || X509Error::Algorithm(subject_text.clone());
        let mut ca = false;
        let (mut path_length, mut signs_certificates, mut signs_lists) = (None, None, None);
        let mut extensions: Vec<(String, Vec<u8>)> = Vec::new();
        for extension in parsed.extensions() {
            let oid = extension.oid.to_id_string();
            if extensions.iter().any(|(known, _)| *known == oid) {
                return Err(malformed);
            }
            let content = extension.parsed_extension();
            if let ParsedExtension::BasicConstraints(constraints) = content {
                ca = constraints.ca;
                path_length = constraints.path_len_constraint;
            } else if let ParsedExtension::KeyUsage(usage) = content {
                signs_certificates = Some(usage.key_cert_sign());
                signs_lists = Some(usage.crl_sign());
            } else {
                let understood = matches!(
                    content,
                    ParsedExtension::ExtendedKeyUsage(_)
                        | ParsedExtension::SubjectAlternativeName(_)
                        | ParsedExtension::CertificatePolicies(_)
                );
                if extension.critical && !understood {
                    return Err(X509Error::CriticalExtension(subject_text));
                }
            }
            extensions.push((oid, extension.value.to_vec()));
        }
        Ok(Self {
            signed: Signed {
                body: parsed.tbs_certificate.as_ref().to_vec(),
                issuer: parsed.issuer().as_raw().to_vec(),
                algorithm: algorithm(&parsed.signature_algorithm).ok_or_else(unknown)?,
                signature: parsed.signature_value.data.to_vec(),
            },
            serial: parsed.raw_serial().to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            from: time(parsed.validity().not_before.timestamp()),
            to: time(parsed.validity().not_after.timestamp()),
            key: public_key(parsed.public_key()).ok_or_else(unknown)?,
            ca,
            path_length,
            signs_certificates,
            signs_lists,
            extensions,
            subject_text,
        })
    }

    /// Reads every certificate of a PEM text, at most 16.
    ///
    /// # Errors
    /// As [`Certificate::parse`]; also where the text holds anything else or nothing.
    pub fn parse_pem(pem: &str) -> Result<Vec<Self>, X509Error> {
        let malformed = || X509Error::Malformed("PEM of certificates");
        let mut certificates = Vec::new();
        for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).take(16) {
            let block = block.map_err(|_| malformed())?;
            if block.label != "CERTIFICATE" {
                return Err(malformed());
            }
            certificates.push(Self::parse(&block.contents)?);
        }
        if certificates.is_empty() { Err(malformed()) } else { Ok(certificates) }
    }

    /// The subject's name, for people.
    pub fn subject(&self) -> &str {
        &self.subject_text
    }

    /// The DER of the subject's name.
    pub fn raw_subject(&self) -> &[u8] {
        &self.subject
    }

    /// The content of the serial number, as it stands in the DER.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The subject's key.
    pub const fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// What its issuer signed it with.
    pub const fn signature_algorithm(&self) -> Algorithm {
        self.signed.algorithm
    }

    /// Whether it is a certificate authority's.
    pub const fn is_ca(&self) -> bool {
        self.ca
    }

    /// The first and the last moment at which it is valid.
    pub const fn validity(&self) -> (UnixTime, UnixTime) {
        (self.from, self.to)
    }

    /// The content of an extension, by its dotted object identifier.
    pub fn extension(&self, oid: &str) -> Option<&[u8]> {
        self.extensions.iter().find(|(known, _)| known == oid).map(|(_, content)| content.as_slice())
    }

    /// Whether it is valid now.
    ///
    /// # Errors
    /// [`X509Error::Validity`].
    pub fn check_validity(&self, now: UnixTime) -> Result<(), X509Error> {
        if self.from <= now && now <= self.to {
            return Ok(());
        }
        Err(X509Error::Validity { subject: self.subject_text.clone(), from: self.from, to: self.to })
    }

    /// Whether the holder of `issuer`, a certificate authority, signed this certificate. Its own issuer and its validity are not looked at.
    ///
    /// # Errors
    /// [`X509Error::Signature`].
    pub fn check_issued_by(&self, issuer: &Self) -> Result<(), X509Error> {
        let may = issuer.ca && issuer.signs_certificates.unwrap_or(true);
        if may && self.signed.holds(issuer) {
            Ok(())
        } else {
            Err(X509Error::Signature(self.subject_text.clone()))
        }
    }

    /// The way from this certificate to one of the roots, both ends included, over any of the intermediates; everything on it is valid now.
    ///
    /// # Errors
    /// [`X509Error::Validity`] where nothing but time is in the way; else [`X509Error::NoPath`].
    pub fn path_to<'a>(
        &'a self,
        intermediates: &'a [Self],
        roots: &'a [Self],
        now: UnixTime,
    ) -> Result<Vec<&'a Self>, X509Error> {
        let mut path = vec![self];
        let mut last = None;
        // Names and signatures lead; each step takes the first issuer that fits, so that a hostile set costs no more than a true one.
        while path.len() <= MAX_INTERMEDIATES + 1 {
            let here = path[path.len() - 1];
            if let Err(error) = here.check_validity(now) {
                last.get_or_insert(error);
            }
            let below = u32::try_from(path.len() - 1).unwrap_or(u32::MAX);
            let fits = |issuer: &&Self| {
                issuer.path_length.is_none_or(|most| below <= most) && here.check_issued_by(issuer).is_ok()
            };
            if let Some(root) = roots.iter().find(|root| *root == here || fits(root)) {
                if root != here {
                    path.push(root);
                    if let Err(error) = root.check_validity(now) {
                        last.get_or_insert(error);
                    }
                }
                return match last {
                    None => Ok(path),
                    Some(error) => Err(error),
                };
            }
            let unused = |issuer: &&Self| !path.contains(issuer);
            match intermediates.iter().take(16).filter(unused).find(fits) {
                Some(issuer) => path.push(issuer),
                None => break,
            }
        }
        Err(X509Error::NoPath(self.subject_text.clone()))
    }
}

impl RevocationList {
    /// Reads a revocation list in DER.
    ///
    /// # Errors
    /// [`X509Error::Malformed`] or [`X509Error::Algorithm`].
    pub fn parse(der: &[u8]) -> Result<Self, X509Error> {
        let malformed = X509Error::Malformed("revocation list");
        if der.len() > MAX_REVOCATION_LIST {
            return Err(malformed);
        }
        let (rest, parsed) = CertificateRevocationList::from_der(der).map_err(|_| malformed.clone())?;
        if !rest.is_empty() || !has_one_spelling(der, parsed.tbs_cert_list.as_ref()) {
            return Err(malformed);
        }
        let unknown = || {
            X509Error::Algorithm(format!("the revocation list of {}", shown(&parsed.issuer().to_string())))
        };
        Ok(Self {
            signed: Signed {
                body: parsed.tbs_cert_list.as_ref().to_vec(),
                issuer: parsed.issuer().as_raw().to_vec(),
                algorithm: algorithm(&parsed.signature_algorithm).ok_or_else(unknown)?,
                signature: parsed.signature_value.data.to_vec(),
            },
            from: time(parsed.last_update().timestamp()),
            // Without it (RFC 5280 asks for it), nobody could tell whether the list is current.
            to: parsed.next_update().map(|at| time(at.timestamp())).ok_or(malformed)?,
            serials: parsed.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect(),
        })
    }

    /// Whether a certificate authority signed this list, and it has not expired. One that was made after `now` says no less of what was
    /// shown then.
    ///
    /// # Errors
    /// [`X509Error::Signature`] or [`X509Error::Validity`].
    pub fn check_issued_by(&self, issuer: &Certificate, now: UnixTime) -> Result<(), X509Error> {
        let subject = format!("the revocation list of {}", issuer.subject_text);
        if !self.is_signed_by(issuer) {
            return Err(X509Error::Signature(subject));
        }
        if now > self.to {
            return Err(X509Error::Validity { subject, from: self.from, to: self.to });
        }
        Ok(())
    }

    /// Whether a certificate authority signed this list, at whatever time.
    pub fn is_signed_by(&self, issuer: &Certificate) -> bool {
        issuer.ca && issuer.signs_lists.unwrap_or(true) && self.signed.holds(issuer)
    }

    /// What its issuer signed it with.
    pub const fn signature_algorithm(&self) -> Algorithm {
        self.signed.algorithm
    }

    /// Whether a certificate of the list's issuer is on the list.
    pub fn revokes(&self, certificate: &Certificate) -> bool {
        self.serials.contains(&certificate.serial)
    }
}

impl PublicKey {
    /// Whether this key made an ECDSA signature in DER, or an RSA PKCS #1 v1.5 one, over SHA-256 of a message.
    pub fn verifies_sha256(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm = match self {
            Self::Rsa(_) => Algorithm::RsaPkcs1(Hash::Sha256),
            Self::P256(_) | Self::P384(_) => Algorithm::Ecdsa(Hash::Sha256),
        };
        self.verifies(algorithm, message, signature)
    }

    /// Whether this is a key on P-384 that made a signature over SHA-384 of a message, r and s in 48 bytes each, big-endian: what COSE
    /// calls ES384.
    pub fn verifies_es384(&self, message: &[u8], signature: &[u8; 96]) -> bool {
        let Self::P384(key) = self else { return false };
        UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, key).verify(message, signature).is_ok()
    }

    /// How many bits the modulus has, of an RSA key.
    pub fn rsa_bits(&self) -> Option<usize> {
        let Self::Rsa(key) = self else { return None };
        let (rest, key) = x509_parser::public_key::RSAPublicKey::from_der(key).ok()?;
        rest.is_empty().then(|| key.key_size())
    }

    /// Whether this key made an RSA PSS signature over SHA-256 of a message, with a salt as long as the hash.
    pub fn verifies_sha256_pss(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifies(Algorithm::RsaPss(Hash::Sha256), message, signature)
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let (Some(scheme), Self::Rsa(key) | Self::P256(key) | Self::P384(key)) =
            (self.scheme(algorithm), self)
        else {
            return false;
        };
        UnparsedPublicKey::new(scheme, key).verify(message, signature).is_ok()
    }

    fn scheme(&self, algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match (self, algorithm) {
            (Self::Rsa(_), Algorithm::RsaPkcs1(Hash::Sha256)) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Self::Rsa(_), Algorithm::RsaPkcs1(Hash::Sha384)) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Self::Rsa(_), Algorithm::RsaPkcs1(Hash::Sha512)) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Self::Rsa(_), Algorithm::RsaPss(Hash::Sha256)) => &signature::RSA_PSS_2048_8192_SHA256,
            (Self::Rsa(_), Algorithm::RsaPss(Hash::Sha384)) => &signature::RSA_PSS_2048_8192_SHA384,
            (Self::Rsa(_), Algorithm::RsaPss(Hash::Sha512)) => &signature::RSA_PSS_2048_8192_SHA512,
            (Self::P256(_), Algorithm::Ecdsa(Hash::Sha256)) => &signature::ECDSA_P256_SHA256_ASN1,
            (Self::P256(_), Algorithm::Ecdsa(Hash::Sha384)) => &signature::ECDSA_P256_SHA384_ASN1,
            (Self::P384(_), Algorithm::Ecdsa(Hash::Sha256)) => &signature::ECDSA_P384_SHA256_ASN1,
            (Self::P384(_), Algorithm::Ecdsa(Hash::Sha384)) => &signature::ECDSA_P384_SHA384_ASN1,
            (Self::Rsa(_), Algorithm::Ecdsa(_))
            | (Self::P256(_) | Self::P384(_), Algorithm::RsaPkcs1(_) | Algorithm::RsaPss(_))
            | (Self::P256(_) | Self::P384(_), Algorithm::Ecdsa(Hash::Sha512)) => return None,
        })
    }
}

impl Signed {
    fn holds(&self, issuer: &Certificate) -> bool {
        self.issuer == issuer.subject && issuer.key.verifies(self.algorithm, &self.body, &self.signature)
    }
}

/// Whether what is not signed leaves nothing open: the signed body is in one sequence whose header is as short as DER asks; behind it come the algorithm that the body names too, byte by byte,
/// and a bit string of whole bytes, both written as DER asks.
fn has_one_spelling(der: &[u8], body: &[u8]) -> bool {
    let Some(start) = der.windows(body.len()).position(|window| window == body) else { return false };
    let length = der.len() - start;
    let long = length.to_be_bytes();
    let long = &long[long.iter().take_while(|byte| **byte == 0).count()..];
    let header = match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => vec![0x30, short],
        Ok(_) | Err(_) => [&[0x30, 0x80 | u8::try_from(long.len()).unwrap_or(0)], long].concat(),
    };
    if der[..start] != header {
        return false;
    }
    let behind = &der[start + body.len()..];
    let Some(algorithm) = behind.get(1).and_then(|length| behind.get(..2 + usize::from(*length))) else {
        return false;
    };
    let bits = match &behind[algorithm.len()..] {
        [0x03, length @ 0..=0x7f, bits @ ..] if usize::from(*length) == bits.len() => bits,
        [0x03, 0x81, length @ 0x80..=0xff, bits @ ..] if usize::from(*length) == bits.len() => bits,
        [0x03, 0x82, high @ 1..=0xff, low, bits @ ..]
            if usize::from(u16::from_be_bytes([*high, *low])) == bits.len() =>
        {
            bits
        }
        _ => return false,
    };
    let named = body.windows(algorithm.len()).any(|window| window == algorithm);
    algorithm[0] == 0x30 && named && bits.first() == Some(&0)
}

fn public_key(info: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Option<PublicKey> {
    let key = info.subject_public_key.data.to_vec();
    let algorithm = &info.algorithm;
    // A key that is for PSS only may name parameters of its own; what signs with it names them again.
    // One that only decrypts may be named by what it decrypts, RSAES-OAEP: some vendors of TPMs do.
    let oaep = algorithm.algorithm.to_id_string() == "1.2.840.113549.1.1.7";
    if oaep || algorithm.algorithm == OID_PKCS1_RSAENCRYPTION || algorithm.algorithm == OID_PKCS1_RSASSAPSS {
        return Some(PublicKey::Rsa(key));
    }
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    let curve = algorithm.parameters.as_ref()?.as_oid().ok()?;
    if curve == OID_EC_P256 {
        Some(PublicKey::P256(key))
    } else if curve == OID_NIST_EC_P384 {
        Some(PublicKey::P384(key))
    } else {
        None
    }
}

fn algorithm(identifier: &AlgorithmIdentifier<'_>) -> Option<Algorithm> {
    let oid = &identifier.algorithm;
    for (known, algorithm) in [
        (OID_PKCS1_SHA256WITHRSA, Algorithm::RsaPkcs1(Hash::Sha256)),
        (OID_PKCS1_SHA384WITHRSA, Algorithm::RsaPkcs1(Hash::Sha384)),
        (OID_PKCS1_SHA512WITHRSA, Algorithm::RsaPkcs1(Hash::Sha512)),
        (OID_SIG_ECDSA_WITH_SHA256, Algorithm::Ecdsa(Hash::Sha256)),
        (OID_SIG_ECDSA_WITH_SHA384, Algorithm::Ecdsa(Hash::Sha384)),
    ] {
        if *oid == known {
            return Some(algorithm);
        }
    }
    let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(identifier) else {
        return None;
    };
    // NIST's hash algorithms, 2.16.840.1.101.3.4.2.*; the mask is made with the same hash, or `ring` refuses the signature.
    match parameters.hash_algorithm_oid().to_id_string().as_str() {
        "2.16.840.1.101.3.4.2.1" => Some(Algorithm::RsaPss(Hash::Sha256)),
        "2.16.840.1.101.3.4.2.2" => Some(Algorithm::RsaPss(Hash::Sha384)),
        "2.16.840.1.101.3.4.2.3" => Some(Algorithm::RsaPss(Hash::Sha512)),
        _ => None,
    }
}

/// A name for people: whoever wrote it, it moves no cursor and fills no screen.
fn shown(name: &str) -> String {
    name.chars().take(256).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Seconds since 1970; what lies before reads as 1970.
fn time(seconds: i64) -> UnixTime {
    UnixTime::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    use super::*;

    const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);

    struct Authority {
        params: CertificateParams,
        key: KeyPair,
        certificate: Certificate,
    }

    fn params(name: &str, ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = ca;
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        params
    }

    fn authority(name: &str, issuer: Option<&Authority>, most: BasicConstraints) -> Authority {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = params(name, IsCa::Ca(most));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = match issuer {
            None => params.self_signed(&key).unwrap(),
            Some(issuer) => {
                params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key)).unwrap()
            }
        };
        Authority { certificate: Certificate::parse(der.der()).unwrap(), params, key }
    }

    fn leaf(issuer: &Authority) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let der = params("leaf", IsCa::ExplicitNoCa)
            .signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key));
        Certificate::parse(der.unwrap().der()).unwrap()
    }

    #[test]
    fn a_chain_leads_to_its_root_and_to_no_other() {
        let root = authority("root", None, BasicConstraints::Unconstrained);
        let middle = authority("middle", Some(&root), BasicConstraints::Constrained(0));
        let leaf = leaf(&middle);
        let (roots, middles) = ([root.certificate.clone()], [middle.certificate.clone()]);
        assert_eq!(leaf.path_to(&middles, &roots, NOW).unwrap().len(), 3);
        let stranger = authority("root", None, BasicConstraints::Unconstrained);
        let refused = leaf.path_to(&middles, &[stranger.certificate], NOW).unwrap_err();
        assert_eq!(refused, X509Error::NoPath("CN=leaf".to_owned()), "the same name, another key");
        leaf.path_to(&[], &roots, NOW).unwrap_err();
    }

    #[test]
    fn a_leaf_is_no_authority_and_a_path_length_holds() {
        let root = authority("root", None, BasicConstraints::Constrained(0));
        let middle = authority("middle", Some(&root), BasicConstraints::Unconstrained);
        let roots = [root.certificate.clone()];
        leaf(&middle).path_to(std::slice::from_ref(&middle.certificate), &roots, NOW).unwrap_err();
        assert_eq!(leaf(&root).path_to(&[], &roots, NOW).unwrap().len(), 2);
        let leaf = leaf(&root);
        leaf.check_issued_by(&leaf).unwrap_err();
    }

    #[test]
    fn nothing_is_valid_before_or_after_its_time() {
        let root = authority("root", None, BasicConstraints::Unconstrained);
        let (leaf, roots) = (leaf(&root), [root.certificate.clone()]);
        for time in [1_700_000_000_000, 2_100_000_000_000] {
            let error = leaf.path_to(&[], &roots, UnixTime::from_millis(time)).unwrap_err();
            assert!(matches!(error, X509Error::Validity { .. }), "{error}");
        }
    }

    #[test]
    fn a_name_is_shown_without_control_characters_and_not_at_any_length() {
        let name = format!("a\x1b[2Jb\nc{}", "d".repeat(1000));
        let root = authority(&name, None, BasicConstraints::Unconstrained);
        let shown = root.certificate.subject();
        assert!(shown.starts_with("CN=a?[2Jb?cddd"), "{shown}");
        assert_eq!(shown.len(), 256);
    }

    #[test]
    fn a_flipped_bit_anywhere_or_a_cut_is_refused() {
        let root = authority("root", None, BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params("leaf", IsCa::NoCa)
            .signed_by(&key, &Issuer::from_params(&root.params, &root.key))
            .unwrap();
        let (der, roots) = (der.der().to_vec(), [root.certificate]);
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut bent = der.clone();
                bent[at] ^= 1 << bit;
                let path = Certificate::parse(&bent).map(|leaf| leaf.path_to(&[], &roots, NOW).is_ok());
                assert!(!matches!(path, Ok(true)), "byte {at}, bit {bit}");
            }
            Certificate::parse(&der[..at]).unwrap_err();
        }
        Certificate::parse(&[der.as_slice(), b"\0"].concat()).unwrap_err();
        Certificate::parse(&vec![0x30; MAX_CERTIFICATE + 1]).unwrap_err();
    }
}
