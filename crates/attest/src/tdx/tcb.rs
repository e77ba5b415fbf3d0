//! What Intel says of platforms, TDX modules and quoting enclaves: which versions are good (PCS API, TCB info V3 and enclave identity V2).

use std::cmp::Reverse;

use carrick_types::UnixTime;
use serde::{Deserialize, Serialize};

use super::{
    chain::Platform,
    quote::{QeReport, TdReport},
};

/// How good a trusted computing base is, in Intel's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Nothing is known against it.
    UpToDate,
    /// The software in the TD has to harden itself.
    #[serde(rename = "SWHardeningNeeded")]
    SwHardeningNeeded,
    /// The platform has to be configured differently.
    ConfigurationNeeded,
    /// Both.
    #[serde(rename = "ConfigurationAndSWHardeningNeeded")]
    ConfigurationAndSwHardeningNeeded,
    /// There are updates that close holes.
    OutOfDate,
    /// There are updates, and the platform has to be configured differently.
    OutOfDateConfigurationNeeded,
    /// Its keys are in doubt. Never accepted.
    Revoked,
}

/// TCB info: which versions of a kind of platform are good.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TcbInfo {
    pub(super) id: String,
    pub(super) version: u32,
    pub(super) issue_date: UnixTime,
    pub(super) next_update: UnixTime,
    pub(super) fmspc: String,
    pub(super) pce_id: String,
    tcb_type: u32,
    tdx_module: Module,
    #[serde(default)]
    tdx_module_identities: Vec<VersionedModule>,
    tcb_levels: Vec<Level<Components>>,
}

/// The fields of a TCB info that say of what it speaks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scope {
    fmspc: String,
    pce_id: String,
}

/// Which enclave quotes, and which versions of it are good.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QeIdentity {
    pub(super) id: String,
    pub(super) version: u32,
    pub(super) issue_date: UnixTime,
    pub(super) next_update: UnixTime,
    miscselect: String,
    miscselect_mask: String,
    attributes: String,
    attributes_mask: String,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: Vec<Level<Svn<u16>>>,
}

/// Who signs a TDX module, and what it may be.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
}

/// A major version of the TDX module.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionedModule {
    id: String,
    #[serde(flatten)]
    module: Module,
    tcb_levels: Vec<Level<Svn<u8>>>,
}

/// From these versions on, this is how good it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Level<T> {
    tcb: T,
    pub(super) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(super) advisories: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Svn<T> {
    isvsvn: T,
}

#[derive(Debug, Deserialize)]
struct Components {
    sgxtcbcomponents: [Component; 16],
    tdxtcbcomponents: [Component; 16],
    pcesvn: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Component {
    svn: u8,
}

/// What a level says: the status, and what is known against it.
pub(super) type Verdict<'a> = (TcbStatus, &'a [String]);

/// Whether a TCB info speaks of a platform; a look at it that costs less than reading it.
pub(super) fn speaks_of(tcb_info: &str, platform: &Platform) -> bool {
    serde_json::from_str::<Scope>(tcb_info).is_ok_and(|scope| {
        unhex(&scope.fmspc) == Some(platform.fmspc) && unhex(&scope.pce_id) == Some(platform.pce_id)
    })
}

impl TcbInfo {
    /// Reads a TCB info of TDX. `None` where it is something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut info: Self = serde_json::from_str(text).ok()?;
        if info.id != "TDX" || info.version != 3 || info.tcb_type != 0 {
            return None;
        }
        // The highest first, whatever the text's order: the first that fits counts.
        info.tcb_levels.sort_by_key(|level| {
            let tcb = &level.tcb;
            Reverse((tcb.sgxtcbcomponents, tcb.pcesvn, tcb.tdxtcbcomponents))
        });
        for identity in &mut info.tdx_module_identities {
            identity.tcb_levels.sort_by_key(|level| Reverse(level.tcb.isvsvn));
        }
        Some(info)
    }

    /// How good a platform is under a TDX module's and its loader's versions. `None` where it is below every level.
    pub(super) fn platform(&self, platform: &Platform, tee_tcb_svn: &[u8; 16]) -> Option<Verdict<'_>> {
        // From the second version of the module on, its version and SVN are judged by its identity.
        let judged = if tee_tcb_svn[1] == 0 { 0 } else { 2 };
        let reaches =
            |have: &[u8], least: &[Component]| have.iter().zip(least).all(|(have, least)| *have >= least.svn);
        let level = self.tcb_levels.iter().find(|level| {
            reaches(&platform.components, &level.tcb.sgxtcbcomponents)
                && platform.pce_svn >= level.tcb.pcesvn
                && reaches(&tee_tcb_svn[judged..], &level.tcb.tdxtcbcomponents[judged..])
        })?;
        Some((level.tcb_status, &level.advisories))
    }

    /// Whether the TDX module is the one that Intel says it is.
    pub(super) fn names_module_of(&self, td: &TdReport) -> bool {
        let Some(module) = self.module(&td.tee_tcb_svn) else { return false };
        let (Some(attributes), Some(mask)) =
            (unhex::<8>(&module.attributes), unhex::<8>(&module.attributes_mask))
        else {
            return false;
        };
        // Outside the mask nothing may be set either: what it would mean is not known.
        let same = td.seam_attributes.iter().zip(attributes.iter().zip(mask));
        unhex(&module.mrsigner) == Some(td.mr_signer_seam)
            && same.into_iter().all(|(have, (want, mask))| *have == want & mask)
    }

    /// How good the version of the TDX module is. `None` where it is not known or below every level.
    pub(super) fn module_version(&self, tee_tcb_svn: &[u8; 16]) -> Option<Verdict<'_>> {
        if tee_tcb_svn[1] == 0 {
            return Some((TcbStatus::UpToDate, &[]));
        }
        let level = self
            .versioned(tee_tcb_svn)?
            .tcb_levels
            .iter()
            .find(|level| tee_tcb_svn[0] >= level.tcb.isvsvn)?;
        Some((level.tcb_status, &level.advisories))
    }

    fn module(&self, tee_tcb_svn: &[u8; 16]) -> Option<&Module> {
        match tee_tcb_svn[1] {
            0 => Some(&self.tdx_module),
            _ => Some(&self.versioned(tee_tcb_svn)?.module),
        }
    }

    fn versioned(&self, tee_tcb_svn: &[u8; 16]) -> Option<&VersionedModule> {
        let id = format!("TDX_{:02X}", tee_tcb_svn[1]);
        self.tdx_module_identities.iter().find(|identity| identity.id == id)
    }
}

impl QeIdentity {
    /// Reads the identity of the enclave that quotes TDs. `None` where it is something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut identity: Self = serde_json::from_str(text).ok()?;
        identity.tcb_levels.sort_by_key(|level| Reverse(level.tcb.isvsvn));
        (identity.id == "TD_QE" && matches!(identity.version, 2 | 3)).then_some(identity)
    }

    /// Whether a report is of this enclave.
    pub(super) fn names(&self, qe: &QeReport) -> bool {
        unhex(&self.mrsigner) == Some(qe.mr_signer)
            && self.isvprodid == qe.product
            && masked(&qe.misc_select, &self.miscselect, &self.miscselect_mask)
            && masked(&qe.attributes, &self.attributes, &self.attributes_mask)
    }

    /// How good the version of the enclave is. `None` where it is below every level.
    pub(super) fn version(&self, qe: &QeReport) -> Option<Verdict<'_>> {
        let level = self.tcb_levels.iter().find(|level| qe.svn >= level.tcb.isvsvn)?;
        Some((level.tcb_status, &level.advisories))
    }
}

/// Whether a field has the bits that are wanted where the mask is set.
fn masked<const N: usize>(have: &[u8; N], want: &str, mask: &str) -> bool {
    let (Some(want), Some(mask)) = (unhex::<N>(want), unhex::<N>(mask)) else { return false };
    have.iter().zip(want.iter().zip(mask)).all(|(have, (want, mask))| have & mask == want & mask)
}

/// Exactly `N` bytes in hexadecimal of either case, as Intel mixes them in what it signs.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    super::unhex(&text.to_ascii_lowercase())?.try_into().ok()
}
