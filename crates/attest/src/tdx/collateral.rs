//! Collateral: what Intel signs about platforms, as an operator got it and put it into the policy bundle.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use carrick_types::UnixTime;
use serde::{Deserialize, Serialize};

use super::{
    chain::{self, Platform},
    tcb::{self, QeIdentity, TcbInfo},
    unhex,
};
use crate::{
    Appraisal,
    x509::{Certificate, PublicKey, RevocationList, X509Error},
};

/// The longest field that is read, in characters: a revocation list in hexadecimal, with room.
const MAX_FIELD: usize = 512 * 1024;

/// Collateral for one kind of platform: the answers of Intel's PCS (`tcb`, `qe/identity`, `pckcrl`, `rootcacrl`), each with the
/// chain of its issuer, under the names that DCAP libraries give them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collateral {
    /// The issuer of `pck_crl` and its root, in PEM.
    pub pck_crl_issuer_chain: String,
    /// The root's revocation list, DER in lower-case hexadecimal.
    pub root_ca_crl: String,
    /// The revocation list of PCK certificates, DER in lower-case hexadecimal.
    pub pck_crl: String,
    /// The signer of `tcb_info` and its root, in PEM.
    pub tcb_info_issuer_chain: String,
    /// The text of `tcbInfo`, byte by byte as Intel signed it.
    pub tcb_info: String,
    /// `r` and `s`, in lower-case hexadecimal.
    pub tcb_info_signature: String,
    /// The signer of `qe_identity` and its root, in PEM.
    pub qe_identity_issuer_chain: String,
    /// The text of `enclaveIdentity`, byte by byte as Intel signed it.
    pub qe_identity: String,
    /// `r` and `s`, in lower-case hexadecimal.
    pub qe_identity_signature: String,
}

/// Collateral, read; nothing of it is verified.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    raw: &'a Collateral,
    pub(super) tcb_info: TcbInfo,
    pub(super) qe_identity: QeIdentity,
    pck_issuers: Vec<Certificate>,
    tcb_signers: Vec<Certificate>,
    qe_signers: Vec<Certificate>,
    root_list: RevocationList,
    pck_list: RevocationList,
}

impl Collateral {
    /// Whether it says that it speaks of this platform.
    pub(super) fn is_about(&self, platform: &Platform) -> bool {
        self.tcb_info.len() <= MAX_FIELD && tcb::speaks_of(&self.tcb_info, platform)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Which field is not what it should be, for people.
    pub(super) fn parse(&self) -> Result<Parsed<'_>, String> {
        let fields = [
            &self.pck_crl_issuer_chain,
            &self.root_ca_crl,
            &self.pck_crl,
            &self.tcb_info_issuer_chain,
            &self.tcb_info,
            &self.tcb_info_signature,
            &self.qe_identity_issuer_chain,
            &self.qe_identity,
            &self.qe_identity_signature,
        ];
        if fields.iter().any(|field| field.len() > MAX_FIELD) {
            return Err(format!("a field is longer than {MAX_FIELD} characters"));
        }
        let of = |field: &'static str| move |error: X509Error| format!("{field}: {error}");
        let list = |field, hex: &str| {
            let der = unhex(hex).ok_or_else(|| format!("{field} is not lower-case hexadecimal"))?;
            RevocationList::parse(&der).map_err(of(field))
        };
        Ok(Parsed {
            raw: self,
            tcb_info: TcbInfo::parse(&self.tcb_info).ok_or("tcb_info is not a TCB info V3 of TDX")?,
            qe_identity: QeIdentity::parse(&self.qe_identity)
                .ok_or("qe_identity is not an identity of the enclave that quotes TDs")?,
            pck_issuers: chain::read_pem(&self.pck_crl_issuer_chain).map_err(of("pck_crl_issuer_chain"))?,
            tcb_signers: chain::read_pem(&self.tcb_info_issuer_chain).map_err(of("tcb_info_issuer_chain"))?,
            qe_signers: chain::read_pem(&self.qe_identity_issuer_chain)
                .map_err(of("qe_identity_issuer_chain"))?,
            root_list: list("root_ca_crl", &self.root_ca_crl)?,
            pck_list: list("pck_crl", &self.pck_crl)?,
        })
    }
}

impl Parsed<'_> {
    /// Writes down whether it is Intel's and of today, and whether the PCK certificate, which is on the way `pck` to a root, still holds.
    /// `None` where the rest has no meaning.
    pub(super) fn judge(
        &self,
        pck: &[&Certificate],
        roots: &[Certificate],
        at: UnixTime,
        appraisal: &mut Appraisal,
    ) -> Option<()> {
        let [leaf, issuer, root] = pck else { return None };
        let current = self.check_lists(pck, roots, at);
        let value = current.as_ref().err().map_or_else(|| "current".to_owned(), ToString::to_string);
        let expected = "current lists of the PCK certificate's issuer and of its root";
        if !appraisal.check("revocation lists", value, current.is_ok(), expected) {
            return None;
        }
        for (name, revoked) in [
            ("PCK revocation", self.pck_list.revokes(leaf)),
            ("PCK issuer revocation", self.root_list.revokes(issuer) || self.root_list.revokes(root)),
        ] {
            let value = if revoked { "revoked" } else { "not revoked" };
            appraisal.check(name, value, !revoked, "not on Intel's revocation list");
        }
        let (info, identity) = (&self.tcb_info, &self.qe_identity);
        let signed = [
            ("TCB info", &self.tcb_signers, &self.raw.tcb_info, &self.raw.tcb_info_signature),
            ("QE identity", &self.qe_signers, &self.raw.qe_identity, &self.raw.qe_identity_signature),
        ];
        let times = [(info.issue_date, info.next_update), (identity.issue_date, identity.next_update)];
        for ((name, signers, text, signature), (from, to)) in signed.into_iter().zip(times) {
            let signer = self.check_signed(signers, root, roots, (text, signature), at);
            let value = signer.as_ref().err().map_or("signed", String::as_str);
            let expected = "signed by Intel's TCB signing key, which leads to a pinned root";
            appraisal.check(name, value, signer.is_ok(), expected);
            let value = format!("from {from} to {to}");
            // What Intel says later speaks of the same platform: who showed its quote before must not be cut off by an operator who
            // brings newer collateral.
            let holds = at <= to;
            appraisal.check(
                &format!("{name} validity"),
                value,
                holds,
                format!("a period that ends after {at}"),
            );
        }
        appraisal.refusal().is_none().then_some(())
    }

    /// Whether both revocation lists are current, and of the issuers on the way `pck`.
    fn check_lists(
        &self,
        pck: &[&Certificate],
        roots: &[Certificate],
        at: UnixTime,
    ) -> Result<(), X509Error> {
        let [_, issuer, root] = pck else { return Err(X509Error::Malformed("chain of a PCK certificate")) };
        let stranger = || X509Error::NoPath("the issuer of the revocation list".to_owned());
        let (given, rest) = self.pck_issuers.split_first().ok_or_else(stranger)?;
        let way = given.path_to(rest, roots, at)?;
        let complete = way.iter().zip(&self.pck_issuers).all(|(on, given)| *on == given);
        // Its certificate may have been renewed; the name and the key stay.
        let same = given.raw_subject() == issuer.raw_subject() && given.public_key() == issuer.public_key();
        if !complete || !same || way.len() < self.pck_issuers.len() || way.last() != Some(root) {
            return Err(stranger());
        }
        self.pck_list.check_issued_by(issuer, at)?;
        self.root_list.check_issued_by(root, at)
    }

    /// Whether the signer of Intel's statements, by the same root as the PCK certificate, signed a text.
    fn check_signed(
        &self,
        signers: &[Certificate],
        root: &Certificate,
        roots: &[Certificate],
        (text, signature): (&str, &str),
        at: UnixTime,
    ) -> Result<(), String> {
        let path = chain::path(signers, roots, at).map_err(|error| error.to_string())?;
        let [signer, end] = path.as_slice() else {
            return Err("the signer's chain has issuers between it and the root".to_owned());
        };
        if *end != root || !chain::is_named(signer, "Intel SGX TCB Signing") {
            return Err(format!("{} does not sign TCB info", signer.subject()));
        }
        if self.root_list.revokes(signer) {
            return Err(format!("{} is revoked", signer.subject()));
        }
        let holds = unhex(signature).is_some_and(|signature| verifies(signer, text.as_bytes(), &signature));
        if holds { Ok(()) } else { Err("not signed".to_owned()) }
    }
}

/// Whether a certificate's key on P-256 made a signature of `r` and `s`.
pub(super) fn verifies(signer: &Certificate, message: &[u8], signature: &[u8]) -> bool {
    match signer.public_key() {
        PublicKey::P256(point) => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
        }
        PublicKey::Rsa(_) | PublicKey::P384(_) => false,
    }
}
