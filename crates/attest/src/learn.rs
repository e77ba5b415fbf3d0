//! Reference values, from what a trusted node shows today.

use crate::{Evidence, Statement, kubernetes, nitro, policy::ClusterPolicy, sev_snp, tdx, tpm};

/// Writes what the statements show into the sections of their kinds, which are made where they are missing. Roots and issuers are
/// not learnt: whom to believe is for the operator to say.
pub fn learn(statements: &[Statement], policy: &mut ClusterPolicy) {
    for statement in statements {
        match &statement.evidence {
            Evidence::Identity { .. } | Evidence::JoinToken(_) => {}
            Evidence::Kubernetes(evidence) => {
                kubernetes::learn(evidence, policy.kubernetes.get_or_insert_default());
            }
            Evidence::Tpm(evidence) => tpm::learn(evidence, policy.tpm.get_or_insert_default()),
            Evidence::SevSnp(evidence) => sev_snp::learn(evidence, policy.sev_snp.get_or_insert_default()),
            Evidence::Tdx(evidence) => tdx::learn(evidence, policy.tdx.get_or_insert_default()),
            Evidence::Nitro(evidence) => nitro::learn(evidence, policy.nitro.get_or_insert_default()),
        }
    }
}
