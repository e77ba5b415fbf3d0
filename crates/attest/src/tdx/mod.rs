//! Intel TDX quotes as evidence.
//!
//! A quote says what a TD is; its attestation key is vouched for by a quoting enclave, that one by the platform's PCK certificate,
//! and that one by Intel. How good platform, TDX module and quoting enclave are is in collateral that Intel signs for about 30 days
//! and an operator puts into the policy bundle. Start at [`appraise`]. Formats: Intel's TDX DCAP Quoting Library API (quotes) and
//! Provisioning Certification Service API V4 (collateral).

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use carrick_types::UnixTime;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Appraisal, Blob, Kind, Transcript,
    hex::hex,
    x509::{Certificate, X509Error},
};

mod chain;
mod collateral;
mod quote;
mod tcb;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use collateral::Collateral;
pub use tcb::TcbStatus;

use chain::Platform;
use quote::{Quote, TdReport};

/// The longest quote that is read, in bytes; they have about 5,000.
pub const MAX_QUOTE: usize = 16 * 1024;

/// The most kinds of platform that one policy speaks of.
const MAX_COLLATERAL: usize = 32;

/// The root of Intel's certificates, where a policy names no other.
const INTEL_SGX_ROOT_CA: &str = include_str!("intel_sgx_root_ca.pem");

/// Bits of a TD's attributes (Intel TDX Module ABI, `TD_ATTRIBUTES`).
mod attributes {
    /// The TD is under test: its host may debug, profile or otherwise look into it.
    pub(super) const UNDER_TEST: u64 = 0xff;
    /// The host cannot make the TD take exceptions on its own pages.
    pub(super) const SEPT_VE_DISABLE: u64 = 1 << 28;
    /// A migration TD may move it elsewhere.
    pub(super) const MIGRATABLE: u64 = 1 << 29;
    /// What the TD may use of the CPU, which takes nothing from it: LASS, PKS, key locker, TPA, PERFMON.
    pub(super) const HARMLESS: u64 = 1 << 27 | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63;
}

/// The evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The quote, without anything behind it.
    pub quote: Blob<MAX_QUOTE>,
}

impl Evidence {
    /// A quote as a device hands it out: it may have zeros behind it, which do not travel.
    ///
    /// # Errors
    /// Where it is too long, or no quote.
    pub fn from_device(bytes: &[u8]) -> Result<Self, String> {
        let quote = quote::without_padding(bytes).ok_or("what the device hands out is no TDX quote")?;
        Ok(Self { quote: Blob::new(quote.to_vec()).map_err(|error| error.to_string())? })
    }
}

/// What an operator accepts. Measurements are written in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Root certificates, each in PEM; Intel's own where it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
    /// What Intel says of the platforms that TDs may run on, one for each FMSPC. It expires after about 30 days.
    #[serde(default)]
    pub collateral: Vec<Collateral>,
    /// How good platform, TDX module and quoting enclave must be; `UpToDate` where it is left out.
    #[serde(default = "up_to_date")]
    pub accept_tcb: BTreeSet<TcbStatus>,
    /// MRTD of the TDs that are accepted: one at least.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub mrtd: BTreeSet<String>,
    /// For each register of 0 to 3, what it may hold; anything where it is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rtmrs: BTreeMap<u8, BTreeSet<String>>,
    /// MRCONFIGID of the TDs that are accepted; any where it is left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub mr_config_id: BTreeSet<String>,
    /// More that the TD's attributes must be, beside what is always asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td_attributes: Option<Masked>,
}

/// Bits that must have a value. 16 digits each, the most significant first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masked {
    /// Which.
    pub mask: String,
    /// Which value.
    pub value: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            collateral: Vec::new(),
            accept_tcb: up_to_date(),
            mrtd: BTreeSet::new(),
            rtmrs: BTreeMap::new(),
            mr_config_id: BTreeSet::new(),
            td_attributes: None,
        }
    }
}

impl Policy {
    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self) -> Result<(), String> {
        self.read_roots().map_err(|error| format!("roots: {error}"))?;
        if self.collateral.is_empty() || self.collateral.len() > MAX_COLLATERAL {
            return Err(format!("it takes the collateral of 1 to {MAX_COLLATERAL} kinds of platform"));
        }
        let mut platforms = BTreeSet::new();
        for (at, collateral) in self.collateral.iter().enumerate() {
            let parsed = collateral.parse().map_err(|why| format!("collateral {at}: {why}"))?;
            let (fmspc, pce) = (parsed.tcb_info.fmspc, parsed.tcb_info.pce_id);
            if !platforms.insert((fmspc.to_ascii_lowercase(), pce.to_ascii_lowercase())) {
                return Err(format!("it has the collateral of FMSPC {fmspc} twice"));
            }
        }
        if self.accept_tcb.is_empty() || self.accept_tcb.contains(&TcbStatus::Revoked) {
            return Err("accept_tcb names no status, or one that is never accepted".to_owned());
        }
        if self.mrtd.is_empty() {
            return Err("any TD would do: give values for `mrtd`".to_owned());
        }
        if let Some(index) = self.rtmrs.keys().find(|index| **index > 3) {
            return Err(format!("there is no RTMR {index}: they are 0 to 3"));
        }
        let measurements = self.mrtd.iter().chain(self.rtmrs.values().flatten()).chain(&self.mr_config_id);
        for measurement in measurements {
            if unhex(measurement).is_none_or(|bytes| bytes.len() != 48) {
                return Err(format!("{measurement:?} is no SHA-384 in lower-case hexadecimal"));
            }
        }
        match &self.td_attributes {
            Some(masked) if masked.read().is_none() => {
                Err("td_attributes: mask and value take 16 digits in lower-case hexadecimal".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn read_roots(&self) -> Result<Vec<Certificate>, X509Error> {
        if self.roots.is_empty() {
            return Certificate::parse_pem(INTEL_SGX_ROOT_CA);
        }
        let mut roots = Vec::new();
        for pem in self.roots.iter().take(8) {
            roots.extend(Certificate::parse_pem(pem)?);
        }
        Ok(roots)
    }
}

impl Masked {
    fn read(&self) -> Option<(u64, u64)> {
        let number = |text| unhex(text).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        Some((number(&self.mask)?, number(&self.value)?))
    }
}

/// Appraises evidence that is bound to `transcript`, as of `at`.
pub fn appraise(evidence: &Evidence, policy: &Policy, transcript: &Transcript, at: UnixTime) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::Tdx);
    match Quote::parse(evidence.quote.as_bytes()) {
        Err(why) => appraisal.refuse("quote", why, "a TDX quote of version 4 or 5"),
        Ok(quote) => {
            appraisal.accept("quote", format!("version {}", quote.version), "of a TD");
            // Who says it comes first: nothing that nobody vouches for is worth reading.
            if judge_origin(&quote, policy, at, &mut appraisal).is_some() {
                judge_td(&quote.td, policy, &mut appraisal);
                let bound = quote.td.report_data == *transcript.as_bytes();
                let value = hex(&quote.td.report_data);
                appraisal.check("report data", value, bound, "this session, these keys, this moment");
            }
        }
    }
    appraisal
}

/// Writes the reference values that evidence shows into a draft.
pub fn learn(evidence: &Evidence, into: &mut Policy) {
    let Ok(quote) = Quote::parse(evidence.quote.as_bytes()) else { return };
    into.mrtd.insert(hex(&quote.td.mr_td));
    for (index, rtmr) in (0..).zip(&quote.td.rtmrs) {
        into.rtmrs.entry(index).or_default().insert(hex(rtmr));
    }
}

/// Writes down who vouches for the quote, from Intel's root down to the attestation key, and how good everything on the way is.
/// `None` where nobody does.
fn judge_origin(quote: &Quote<'_>, policy: &Policy, at: UnixTime, appraisal: &mut Appraisal) -> Option<()> {
    let roots = match policy.read_roots() {
        Ok(roots) => roots,
        Err(error) => {
            appraisal.refuse("roots", error.to_string(), "certificates in PEM");
            return None;
        }
    };
    let chain = read_pck_chain(quote.pck_chain);
    let path = chain.as_ref().map_err(Clone::clone).and_then(|chain| pck_path(chain, &roots, at));
    let path = match path {
        Ok(path) => path,
        Err(error) => {
            let expected = "a PCK certificate under a PCK CA of a pinned root";
            appraisal.refuse("PCK certificate", error.to_string(), expected);
            return None;
        }
    };
    let leaf = *path.first()?;
    appraisal.accept("PCK certificate", hex(leaf.serial()), "it leads to a pinned root");
    let Some(platform) = Platform::read(leaf) else {
        appraisal.refuse("platform", "not said", "Intel's extension of PCK certificates");
        return None;
    };
    let fmspc = hex(&platform.fmspc);
    let mut known = policy.collateral.iter().take(MAX_COLLATERAL);
    let collateral = match known.find(|collateral| collateral.is_about(&platform)).map(Collateral::parse) {
        None => {
            appraisal.refuse("platform", fmspc, "one that the policy bundle has collateral of");
            return None;
        }
        Some(Err(why)) => {
            appraisal.refuse("collateral", why, "what Intel's PCS answers, unchanged");
            return None;
        }
        Some(Ok(collateral)) => collateral,
    };
    appraisal.accept("platform", fmspc, "the policy bundle has its collateral");
    collateral.judge(&path, &roots, at, appraisal)?;

    let qe = quote.qe().ok()?;
    judge_keys(quote, leaf, &qe, &collateral, appraisal)?;
    judge_tcb(&quote.td, &platform, &collateral, &qe, policy, appraisal);
    Some(())
}

/// Writes down whether the PCK vouches for Intel's quoting enclave, that one for the attestation key, and that key for the quote.
fn judge_keys(
    quote: &Quote<'_>,
    pck: &Certificate,
    qe: &quote::QeReport,
    collateral: &collateral::Parsed<'_>,
    appraisal: &mut Appraisal,
) -> Option<()> {
    let value = |holds: bool| if holds { "ECDSA P-256" } else { "does not hold" };
    let signed = collateral::verifies(pck, quote.qe_report, quote.qe_signature);
    let named = collateral.qe_identity.names(qe);
    let mut vouched = [0; 64];
    let keys = Sha256::new().chain_update(quote.attestation_key).chain_update(quote.qe_auth_data);
    vouched[..32].copy_from_slice(&keys.finalize());
    let mut point = vec![4];
    point.extend_from_slice(quote.attestation_key);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point);
    let quoted = key.verify(quote.signed, quote.signature).is_ok();
    let all = [
        appraisal.check("QE report", value(signed), signed, "signed by the PCK"),
        appraisal.check("QE", hex(&qe.mr_signer), named, "the enclave of Intel's QE identity"),
        appraisal.check(
            "attestation key",
            hex(&Sha256::digest(quote.attestation_key)),
            qe.report_data == vouched,
            "the one that the quoting enclave vouches for",
        ),
        appraisal.check("signature", value(quoted), quoted, "of the attestation key"),
    ];
    (!all.contains(&false)).then_some(())
}

/// Writes down how good platform, TDX module and quoting enclave are.
fn judge_tcb(
    td: &TdReport,
    platform: &Platform,
    collateral: &collateral::Parsed<'_>,
    qe: &quote::QeReport,
    policy: &Policy,
    appraisal: &mut Appraisal,
) {
    let info = &collateral.tcb_info;
    let module = info.names_module_of(td);
    let value = format!("signer {}, {}", hex(&td.mr_signer_seam), hex(&td.seam_attributes));
    appraisal.check("TDX module", value, module, "signer and attributes as Intel's TCB info has them");
    appraisal.show("MRSEAM", hex(&td.mr_seam));
    let mut verdicts = vec![
        ("platform TCB", info.platform(platform, &td.tee_tcb_svn)),
        ("TDX module TCB", info.module_version(&td.tee_tcb_svn)),
        ("QE TCB", collateral.qe_identity.version(qe)),
    ];
    // The TCB that the TD was launched on is above; an updated one may have another level.
    if let Some(later) = &td.later {
        verdicts.push(("platform TCB now", info.platform(platform, &later.tee_tcb_svn)));
        verdicts.push(("TDX module TCB now", info.module_version(&later.tee_tcb_svn)));
    }
    let accepted = policy.accept_tcb.iter().map(|status| format!("{status:?}")).collect::<Vec<_>>();
    for (name, verdict) in verdicts {
        let value = match verdict {
            None => "below every level".to_owned(),
            Some((status, [])) => format!("{status:?}"),
            Some((status, advisories)) => format!("{status:?} ({})", advisories.join(", ")),
        };
        let good = verdict
            .is_some_and(|(status, _)| status != TcbStatus::Revoked && policy.accept_tcb.contains(&status));
        appraisal.check(name, value, good, accepted.join(" or "));
    }
}

/// Writes down what the TD is.
fn judge_td(td: &TdReport, policy: &Policy, appraisal: &mut Appraisal) {
    let bits = td.td_attributes;
    let value = format!("{bits:016x}");
    appraisal.check(
        "debug",
        value.clone(),
        bits & attributes::UNDER_TEST == 0,
        "a TD that is not under test",
    );
    let migratable = bits & attributes::MIGRATABLE != 0;
    appraisal.check("migration", value.clone(), !migratable, "a TD that stays where it is");
    let known =
        attributes::UNDER_TEST | attributes::SEPT_VE_DISABLE | attributes::MIGRATABLE | attributes::HARMLESS;
    let strict = bits & attributes::SEPT_VE_DISABLE != 0 && bits & !known == 0;
    let expected = "SEPT_VE_DISABLE, and no attribute whose meaning is not known";
    appraisal.check("TD attributes", value.clone(), strict, expected);
    if let Some(masked) = &policy.td_attributes {
        let holds = masked.read().is_some_and(|(mask, wanted)| bits & mask == wanted & mask);
        let expected = format!("{} where {} is set", masked.value, masked.mask);
        appraisal.check("TD attributes of the policy", value, holds, expected);
    }
    if let Some(later) = &td.later {
        let alone = later.mr_service_td == [0; 48];
        appraisal.check("service TD", hex(&later.mr_service_td), alone, "none is bound to the TD");
        if let Some(extended) = &later.extended {
            let alone = extended.service_td_now == [0; 48];
            let value = hex(&extended.service_td_now);
            appraisal.check("service TD now", value, alone, "none is bound to the TD");
            let whole = extended.vm == 0;
            appraisal.check("VM", extended.vm.to_string(), whole, "0: the TD itself, none that it runs");
        }
    }
    measure("MRTD", &td.mr_td, Some(&policy.mrtd), appraisal);
    for (index, rtmr) in (0..).zip(&td.rtmrs) {
        measure(&format!("RTMR {index}"), rtmr, policy.rtmrs.get(&index), appraisal);
    }
    measure("MRCONFIGID", &td.mr_config_id, Some(&policy.mr_config_id), appraisal);
    appraisal.show("MROWNER", hex(&td.mr_owner));
    appraisal.show("MROWNERCONFIG", hex(&td.mr_owner_config));
    appraisal.show("XFAM", hex(&td.xfam));
}

/// Writes down a measurement; any does where the policy names none.
fn measure(name: &str, found: &[u8; 48], wanted: Option<&BTreeSet<String>>, appraisal: &mut Appraisal) {
    let value = hex(found);
    match wanted {
        Some(wanted) if !wanted.is_empty() => {
            let known = wanted.contains(&value);
            appraisal.check(name, value, known, "one of the reference values");
        }
        Some(_) | None => appraisal.show(name, value),
    }
}

/// The chain of the PCK certificate; behind it some quoting libraries leave the zero byte of a C string.
fn read_pck_chain(bytes: &[u8]) -> Result<Vec<Certificate>, X509Error> {
    let text = std::str::from_utf8(bytes.strip_suffix(b"\0").unwrap_or(bytes));
    chain::read_pem(text.map_err(|_| X509Error::Malformed("chain of certificates in PEM"))?)
}

/// The way of a PCK certificate over its CA to a pinned root.
fn pck_path<'a>(
    chain: &'a [Certificate],
    roots: &'a [Certificate],
    at: UnixTime,
) -> Result<Vec<&'a Certificate>, X509Error> {
    let path = chain::path(chain, roots, at)?;
    let of_intel = match path.as_slice() {
        [leaf, issuer, _] => {
            let issuers = ["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"];
            chain::is_named(leaf, "Intel SGX PCK Certificate")
                && issuers.iter().any(|name| chain::is_named(issuer, name))
        }
        _ => false,
    };
    if of_intel { Ok(path) } else { Err(X509Error::Malformed("PCK certificate's chain")) }
}

fn up_to_date() -> BTreeSet<TcbStatus> {
    BTreeSet::from([TcbStatus::UpToDate])
}

/// Bytes in lower-case hexadecimal, their one spelling.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}
