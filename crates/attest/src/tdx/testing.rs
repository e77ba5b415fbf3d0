//! A platform of one's own, under a root of one's own, that quotes what it is told to: for tests.

use std::collections::BTreeSet;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use sha2::{Digest as _, Sha256};

use super::{Collateral, Policy, chain::write_pem};
use crate::hex::hex;

/// What the platform is, and what is said of it. Every field may be bent before [`Platform::new`].
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The version of the quote.
    pub version: u16,
    /// The body of the quote: 584 bytes for TDX 1.0, 648 for TDX 1.5, 885 for its extended form.
    pub body: Vec<u8>,
    /// The report of the quoting enclave, 384 bytes.
    pub qe_report: Vec<u8>,
    /// What the TCB signing key signs of the platform.
    pub tcb_info: String,
    /// What the TCB signing key signs of the quoting enclave.
    pub qe_identity: String,
    /// Whether the PCK certificate is a certificate authority's.
    pub pck_is_ca: bool,
    /// Serial numbers on the revocation list of the PCK CA.
    pub revoked_pcks: Vec<u8>,
    /// Serial numbers on the root's revocation list.
    pub revoked_issuers: Vec<u8>,
    /// The year in which the revocation lists were made.
    pub lists_from: i32,
    /// The year in which the revocation lists expire.
    pub lists_until: i32,
    /// The common name of who signs TCB info and QE identity.
    pub signer: String,
}

/// The platform.
#[derive(Debug)]
pub struct Platform {
    recipe: Recipe,
    root: Authority,
    pck_ca: Authority,
    signer: Authority,
    pck: Authority,
    attestation_key: EcdsaKeyPair,
}

/// Somebody with a key and a certificate for it.
#[derive(Debug)]
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    der: Vec<u8>,
}

/// Serial numbers of the certificates.
pub mod serial {
    /// The root's.
    pub const ROOT: u8 = 1;
    /// The PCK CA's.
    pub const PCK_CA: u8 = 2;
    /// The TCB signer's.
    pub const SIGNER: u8 = 3;
    /// The PCK's.
    pub const PCK: u8 = 4;
}

const FMSPC: [u8; 6] = [0xb0, 0xc0, 0x6f, 0, 0, 0];
const MRSIGNER: [u8; 32] = [0xdc; 32];

impl Default for Recipe {
    /// A platform that is up to date, and a TD of TDX 1.0 that nobody tests.
    fn default() -> Self {
        let mut body = vec![0; 584];
        // The SVN and the version of the TDX module, and the SVN of its loader.
        body[..3].copy_from_slice(&[5, 3, 2]);
        // SEPT_VE_DISABLE.
        body[123] = 0x10;
        body[136..184].fill(0xaa);
        for (rtmr, register) in (1..).zip(body[328..520].chunks_mut(48)) {
            register.fill(rtmr);
        }
        let mut qe_report = vec![0; 384];
        qe_report[48] = 0x11;
        qe_report[128..160].copy_from_slice(&MRSIGNER);
        qe_report[256] = 2;
        qe_report[258] = 4;
        let when = r#""issueDate":"2020-01-01T00:00:00Z","nextUpdate":"2040-01-01T00:00:00Z""#;
        let svns = |first: u8| {
            let of = |at: u8| format!(r#"{{"svn":{}}}"#, if at == 0 { first } else { 0 });
            (0..16).map(of).collect::<Vec<_>>().join(",")
        };
        let module = format!(
            r#""mrsigner":"{}","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF""#,
            "0".repeat(96)
        );
        let level = |svn: u8, status: &str| {
            format!(
                r#"{{"tcb":{{"sgxtcbcomponents":[{}],"tdxtcbcomponents":[{}],"pcesvn":11}},"tcbStatus":"{status}"}}"#,
                svns(svn),
                svns(0)
            )
        };
        let version =
            |isvsvn: u8, status: &str| format!(r#"{{"tcb":{{"isvsvn":{isvsvn}}},"tcbStatus":"{status}"}}"#);
        let tcb_info = format!(
            r#"{{"id":"TDX","version":3,{when},"fmspc":"B0C06F000000","pceId":"0000","tcbType":0,"tdxModule":{{{module}}},"tdxModuleIdentities":[{{"id":"TDX_03",{module},"tcbLevels":[{},{}]}}],"tcbLevels":[{},{}]}}"#,
            version(5, "UpToDate"),
            version(4, "OutOfDate"),
            level(3, "UpToDate"),
            level(2, "OutOfDate"),
        );
        let qe_identity = format!(
            r#"{{"id":"TD_QE","version":2,{when},"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{}","isvprodid":2,"tcbLevels":[{},{}]}}"#,
            hex(&MRSIGNER).to_uppercase(),
            version(4, "UpToDate"),
            version(1, "OutOfDate"),
        );
        Self {
            version: 4,
            body,
            qe_report,
            tcb_info,
            qe_identity,
            pck_is_ca: false,
            revoked_pcks: Vec::new(),
            revoked_issuers: Vec::new(),
            lists_from: 2020,
            lists_until: 2040,
            signer: "Intel SGX TCB Signing".to_owned(),
        }
    }
}

impl Platform {
    /// A platform by a recipe.
    ///
    /// # Panics
    /// Where the recipe is for nothing that can be made.
    pub fn new(recipe: Recipe) -> Self {
        let root = Authority::new("Intel SGX Root CA", serial::ROOT, None, true, vec![]);
        let pck_ca = Authority::new("Intel SGX PCK Platform CA", serial::PCK_CA, Some(&root), true, vec![]);
        let signer = Authority::new(&recipe.signer, serial::SIGNER, Some(&root), false, vec![]);
        let extension = CustomExtension::from_oid_content(&[1, 2, 840, 113_741, 1, 13, 1], sgx_extension());
        let pck = Authority::new(
            "Intel SGX PCK Certificate",
            serial::PCK,
            Some(&pck_ca),
            recipe.pck_is_ca,
            vec![extension],
        );
        let key = KeyPair::generate().expect("a key is made");
        let attestation_key = raw(&key);
        Self { recipe, root, pck_ca, signer, pck, attestation_key }
    }

    /// The root's certificate, in PEM.
    pub fn root(&self) -> String {
        write_pem(&[&self.root.der])
    }

    /// What Intel would say.
    pub fn collateral(&self) -> Collateral {
        let signer = write_pem(&[&self.signer.der, &self.root.der]);
        let valid = (self.recipe.lists_from, self.recipe.lists_until);
        Collateral {
            pck_crl_issuer_chain: write_pem(&[&self.pck_ca.der, &self.root.der]),
            root_ca_crl: hex(&self.root.revokes(&self.recipe.revoked_issuers, valid)),
            pck_crl: hex(&self.pck_ca.revokes(&self.recipe.revoked_pcks, valid)),
            tcb_info_issuer_chain: signer.clone(),
            tcb_info: self.recipe.tcb_info.clone(),
            tcb_info_signature: hex(&sign(&raw(&self.signer.key), self.recipe.tcb_info.as_bytes())),
            qe_identity_issuer_chain: signer,
            qe_identity: self.recipe.qe_identity.clone(),
            qe_identity_signature: hex(&sign(&raw(&self.signer.key), self.recipe.qe_identity.as_bytes())),
        }
    }

    /// A policy that believes this platform's root and takes any TD.
    pub fn policy(&self) -> Policy {
        Policy {
            roots: vec![self.root()],
            collateral: vec![self.collateral()],
            mrtd: BTreeSet::from([hex(&self.recipe.body[136..184])]),
            ..Policy::default()
        }
    }

    /// A quote over 64 bytes.
    pub fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let recipe = &self.recipe;
        let mut signed = Vec::new();
        signed.extend_from_slice(&recipe.version.to_le_bytes());
        signed.extend_from_slice(&[2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]);
        signed.extend_from_slice(&super::quote::INTEL_QE);
        signed.extend_from_slice(&[7; 20]);
        if recipe.version == 5 {
            let kind: u16 = match recipe.body.len() {
                584 => 2,
                648 => 3,
                _ => 4,
            };
            signed.extend_from_slice(&kind.to_le_bytes());
            signed.extend_from_slice(&length(&recipe.body));
        }
        let start = signed.len();
        signed.extend_from_slice(&recipe.body);
        signed[start + 520..start + 584].copy_from_slice(report_data);
        let signature = sign(&self.attestation_key, &signed);

        let key = &self.attestation_key.public_key().as_ref()[1..];
        let auth_data = [9; 32];
        let mut qe_report = recipe.qe_report.clone();
        let vouched = Sha256::new().chain_update(key).chain_update(auth_data).finalize();
        qe_report[320..352].copy_from_slice(&vouched);
        let mut inner = qe_report.clone();
        inner.extend_from_slice(&sign(&raw(&self.pck.key), &qe_report));
        inner.extend_from_slice(&[32, 0]);
        inner.extend_from_slice(&auth_data);
        let mut chain = write_pem(&[&self.pck.der, &self.pck_ca.der, &self.root.der]).into_bytes();
        chain.push(0);
        inner.extend_from_slice(&[5, 0]);
        inner.extend_from_slice(&length(&chain));
        inner.extend_from_slice(&chain);

        let mut outer = [signature.as_slice(), key, &[6, 0], &length(&inner)].concat();
        outer.extend_from_slice(&inner);
        [signed.as_slice(), &length(&outer), &outer].concat()
    }
}

impl Authority {
    fn new(
        name: &str,
        serial: u8,
        issuer: Option<&Self>,
        is_ca: bool,
        extensions: Vec<CustomExtension>,
    ) -> Self {
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::new(vec![]).expect("no names are good names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "A test");
        params.serial_number = Some(SerialNumber::from(vec![serial]));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        params.custom_extensions = extensions;
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        } else {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        }
        let certificate = match issuer {
            None => params.self_signed(&key),
            Some(issuer) => params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key)),
        };
        let der = certificate.expect("it is issued").der().to_vec();
        Self { params, key, der }
    }

    /// A revocation list with these serial numbers.
    fn revokes(&self, serials: &[u8], (from, until): (i32, i32)) -> Vec<u8> {
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2020, 1, 2),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(from, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&Issuer::from_params(&self.params, &self.key));
        list.expect("it is signed").der().to_vec()
    }
}

/// Intel's extension: the platform's FMSPC, PCE and SVNs.
fn sgx_extension() -> Vec<u8> {
    let oid = |below: &[u8]| {
        let oid = [&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1], below].concat();
        tlv(0x06, &oid)
    };
    let pair = |below: &[u8], value: Vec<u8>| tlv(0x30, &[oid(below), value].concat());
    let svn = |at: u8| pair(&[2, at], tlv(0x02, &[if at == 1 { 3 } else { 0 }]));
    let mut tcb: Vec<u8> = (1..=16).flat_map(svn).collect();
    tcb.extend(pair(&[2, 17], tlv(0x02, &[11])));
    let fields = [pair(&[2], tlv(0x30, &tcb)), pair(&[3], tlv(0x04, &[0, 0])), pair(&[4], tlv(0x04, &FMSPC))];
    tlv(0x30, &fields.concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("it is short");
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length.to_be_bytes()[1]),
        0x80..=0xff => out.extend([0x81, length.to_be_bytes()[1]]),
        _ => {
            out.push(0x82);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("it is short").to_le_bytes()
}

/// The key of a certificate, for signatures of `r` and `s`.
fn raw(key: &KeyPair) -> EcdsaKeyPair {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der());
    key.expect("it is a key on P-256")
}

fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), message).expect("it signs").as_ref().to_vec()
}
