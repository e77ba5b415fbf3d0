//! The appraisal of a report: who signed it, then what it says.

use std::{collections::BTreeSet, fmt};

use carrick_types::UnixTime;

use super::{
    Evidence, Leaf, Policy, Product, ProductPolicy, Report, ReportError, SigningKey, Tcb, leaf::Endorsement,
    policy::is_amds,
};
use crate::{Appraisal, Hex, Kind, Transcript, x509::X509Error};

/// Appraises evidence that is bound to `transcript`, as of `at`. Nothing is said of what the report holds before it is known who
/// signed it.
pub fn appraise(evidence: &Evidence, policy: &Policy, transcript: &Transcript, at: UnixTime) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::SevSnp);
    let Some(report) = read(&mut appraisal, evidence) else { return appraisal };
    let Some((leaf, line)) = check_signer(&mut appraisal, evidence, &report, policy, at) else {
        return appraisal;
    };
    check_platform(&mut appraisal, &report, &leaf, policy);
    check_tcb(&mut appraisal, &report, &leaf, &line.minimum_tcb);
    check_guest(&mut appraisal, &report, policy);
    let bound = report.report_data == *transcript.as_bytes();
    appraisal.check(
        "report data",
        Hex(report.report_data).to_string(),
        bound,
        "this node's keys, in this session",
    );
    appraisal
}

fn read<'a>(appraisal: &mut Appraisal, evidence: &'a Evidence) -> Option<Report<'a>> {
    match Report::parse(evidence.report.as_bytes()) {
        Ok(report) => {
            appraisal.accept("report version", report.version.to_string(), "a version that is known");
            appraisal.accept(
                "signature algorithm",
                "ECDSA P-384 with SHA-384",
                "what AMD signs reports with",
            );
            Some(report)
        }
        Err(error) => {
            let (name, value) = match error {
                ReportError::Length(length) => ("report", format!("{length} bytes")),
                ReportError::Version(version) => ("report version", version.to_string()),
                ReportError::Algorithm(algorithm) => ("signature algorithm", algorithm.to_string()),
                ReportError::SigningKey(key) => ("signing key", key.to_string()),
                ReportError::Reserved(_) => ("report", "malformed".to_owned()),
            };
            appraisal.refuse(name, value, error.to_string());
            None
        }
    }
}

/// Whether a key signed the report that AMD, by the root that the policy pins for its product line, certified for that. `None`
/// where not: the rest would be the word of nobody.
fn check_signer<'a>(
    appraisal: &mut Appraisal,
    evidence: &Evidence,
    report: &Report<'_>,
    policy: &'a Policy,
    at: UnixTime,
) -> Option<(Leaf, &'a ProductPolicy)> {
    let leaf = match Leaf::parse(evidence.certificate.as_bytes()) {
        Ok(leaf) => leaf,
        Err(error) => {
            appraisal.refuse("certificate", "unusable", format!("a VCEK's or VLEK's: {error}"));
            return None;
        }
    };
    let Some(line) = policy.products.get(&leaf.product) else {
        appraisal.refuse("product", &leaf.product_name, "a product line whose root the policy pins");
        return None;
    };
    let of_cpu = report.cpu.map(|cpu| cpu.product());
    let same = of_cpu.is_none_or(|product| product == Some(leaf.product));
    let cpu = report.cpu.map_or_else(String::new, |cpu| {
        format!(", CPUID family {:#x} model {:#x} stepping {}", cpu.family, cpu.model, cpu.stepping)
    });
    let product = format!("{}{cpu}", leaf.product_name);
    if !appraisal.check("product", product, same, "one line in certificate and report") {
        return None;
    }
    let kind = leaf.endorsement.signing_key();
    let agrees = kind == report.signing_key;
    let expected = format!("{}, as in the report", report.signing_key.as_str());
    if !appraisal.check("signing key", kind.as_str(), agrees, expected) {
        return None;
    }
    check_chain(appraisal, &leaf, line, at)?;
    let signed = leaf.certificate.public_key().verifies_es384(report.signed_bytes(), report.signature());
    let algorithm = "ECDSA P-384 with SHA-384";
    appraisal.check("signature", algorithm, signed, "made with the certified key").then_some((leaf, line))
}

fn check_chain(appraisal: &mut Appraisal, leaf: &Leaf, line: &ProductPolicy, at: UnixTime) -> Option<()> {
    let product = leaf.product;
    let kind = leaf.endorsement.signing_key();
    let subject = leaf.certificate.subject();
    let expected = match kind {
        SigningKey::Vcek => format!("a VCEK under the ASK and the pinned ARK of {product}"),
        SigningKey::Vlek => format!("a VLEK under the ASVK and the pinned ARK of {product}"),
    };
    let issuer = match line.issuer(kind) {
        Ok(Some(issuer)) => issuer,
        Ok(None) => {
            appraisal.refuse(
                "chain",
                subject,
                format!("{expected}: the policy has no issuer of {}s", kind.as_str()),
            );
            return None;
        }
        Err(why) => {
            appraisal.refuse("policy", product.as_str(), format!("one that makes sense: {why}"));
            return None;
        }
    };
    let path = leaf.certificate.path_to(
        std::slice::from_ref(&issuer.intermediate),
        std::slice::from_ref(&issuer.ark),
        at,
    );
    match path {
        Ok(path) => {
            // Three of them, or the leaf is the root's own work; and by AMD's one algorithm all the way up.
            let regular = path.len() == 3 && path.iter().all(|one| is_amds(one.signature_algorithm()));
            let way: Vec<_> = path.iter().map(|one| one.subject()).collect();
            if !appraisal.check("chain", way.join(" < "), regular, expected) {
                return None;
            }
        }
        Err(error @ X509Error::Validity { .. }) => {
            appraisal.refuse("validity", error.to_string(), format!("a chain that is valid at {at}"));
            return None;
        }
        Err(_) => {
            appraisal.refuse("chain", subject, expected);
            return None;
        }
    }
    let (from, to) = leaf.certificate.validity();
    appraisal.accept("validity", format!("{from} to {to}"), format!("valid at {at}"));
    if issuer.lists.is_empty() {
        appraisal.show("revocation", "the policy has no revocation list of this line");
        return Some(());
    }
    for list in &issuer.lists {
        if let Err(error) = list.check_issued_by(&issuer.ark, at) {
            appraisal.refuse(
                "revocation",
                error.to_string(),
                format!("lists of the ARK that are current at {at}"),
            );
            return None;
        }
    }
    let name = issuer.intermediate.subject();
    let revoked = issuer.lists.iter().any(|list| list.revokes(&issuer.intermediate));
    appraisal.check("revocation", name, !revoked, "an issuer that AMD has not revoked").then_some(())
}

/// Whether it is the processor that was certified, or a provider's whose word the policy takes.
fn check_platform(appraisal: &mut Appraisal, report: &Report<'_>, leaf: &Leaf, policy: &Policy) {
    match &leaf.endorsement {
        // All that is left then is that the signing key exists on that one processor only.
        Endorsement::Chip(chip) if report.masks_chip_id() => {
            appraisal.show("chip id", format!("masked by the host; the certificate is for {}", Hex(*chip)));
        }
        Endorsement::Chip(chip) => {
            let same = *chip == report.chip_id;
            let expected = format!("{}, as certified", Hex(*chip));
            appraisal.check("chip id", Hex(report.chip_id).to_string(), same, expected);
        }
        Endorsement::Provider(provider) => {
            one_of(appraisal, "provider", provider.clone(), &policy.providers);
            let chip = Hex(report.chip_id);
            let chip = if chip.is_zero() { "masked by the host".to_owned() } else { chip.to_string() };
            appraisal.show("chip id", chip);
        }
    }
    appraisal.show("platform info", format!("{:#x}", report.platform_info));
}

/// Whether the firmware is what the key was certified for, and good enough.
fn check_tcb(appraisal: &mut Appraisal, report: &Report<'_>, leaf: &Leaf, least: &Tcb) {
    let product = leaf.product;
    let Some(reported) = tcb(appraisal, "reported TCB", report.reported_tcb, product) else { return };
    let Some(current) = tcb(appraisal, "current TCB", report.current_tcb, product) else { return };
    let Some(committed) = tcb(appraisal, "committed TCB", report.committed_tcb, product) else { return };
    let Some(launch) = tcb(appraisal, "launch TCB", report.launch_tcb, product) else { return };
    let expected = format!("{}, as certified", leaf.tcb);
    appraisal.check("reported TCB", reported.to_string(), reported == leaf.tcb, expected);
    let below = [&reported, &committed, &launch].into_iter().all(|level| current.covers(level));
    appraisal.check(
        "current TCB",
        current.to_string(),
        below,
        "no lower than the reported, the committed and the launch TCB",
    );
    // Firmware that the host can go back to, or that launched the guest, could have lied about it just as well.
    for (name, level) in [("minimum TCB", reported), ("committed TCB", committed), ("launch TCB", launch)] {
        appraisal.check(name, level.to_string(), level.covers(least), format!("at least {least}"));
    }
}

fn tcb(appraisal: &mut Appraisal, name: &str, bytes: [u8; 8], product: Product) -> Option<Tcb> {
    let level = Tcb::parse(bytes, product);
    if level.is_none() {
        appraisal.refuse(name, Hex(bytes).to_string(), format!("laid out as on {product}"));
    }
    level
}

/// Whether the guest is one that the policy takes, and was launched so that its host cannot look into it.
fn check_guest(appraisal: &mut Appraisal, report: &Report<'_>, policy: &Policy) {
    let guest = report.policy;
    let on_off = |on: bool| if on { "on" } else { "off" };
    appraisal.check("debug", on_off(guest.allows_debug()), !guest.allows_debug(), "off");
    let (may, allowed) = (report.may_migrate(), policy.allow_migration);
    let expected = if allowed { "on or off" } else { "off" };
    appraisal.check("migration agent", on_off(may), !may || allowed, expected);
    let (smt, allowed) = (guest.allows_smt(), policy.allow_smt);
    let expected = if allowed { "on or off" } else { "off" };
    appraisal.check("SMT", on_off(smt), !smt || allowed, expected);
    let most = policy.max_vmpl;
    appraisal.check("VMPL", report.vmpl.to_string(), report.vmpl <= most.into(), format!("at most {most}"));
    one_of(appraisal, "measurement", Hex(report.measurement), &policy.measurements);
    one_of(appraisal, "id key", Hex(report.id_key_digest), &policy.id_key_digests);
    if report.has_author_key || policy.author_key_digests.is_empty() {
        one_of(appraisal, "author key", Hex(report.author_key_digest), &policy.author_key_digests);
    } else {
        appraisal.refuse("author key", "none", "one of the reference values");
    }
    one_of(appraisal, "host data", Hex(report.host_data), &policy.host_data);
    one_of(appraisal, "family id", Hex(report.family_id), &policy.family_ids);
    one_of(appraisal, "image id", Hex(report.image_id), &policy.image_ids);
    let (svn, least) = (report.guest_svn, policy.minimum_guest_svn);
    appraisal.check("guest SVN", svn.to_string(), svn >= least, format!("at least {least}"));
}

/// Whether a value is among those that the policy names; where it names none, it is only shown.
fn one_of<T: Ord + fmt::Display>(appraisal: &mut Appraisal, name: &str, value: T, known: &BTreeSet<T>) {
    if known.is_empty() {
        appraisal.show(name, value.to_string());
    } else {
        appraisal.check(name, value.to_string(), known.contains(&value), "one of the reference values");
    }
}
