//! SEV-SNP policies that make no sense.

use carrick_attest::{
    Blob, Hex,
    sev_snp::{Policy, Product, ProductPolicy},
};

use crate::{
    amd::{self, Line, ark_key, ask_key},
    der::{self, Key},
};

/// Why a policy whose Milan section was bent makes no sense.
fn why(bend: impl FnOnce(&mut ProductPolicy)) -> String {
    let mut policy = amd::policy();
    bend(policy.products.get_mut(&Product::Milan).unwrap());
    policy.check().unwrap_err()
}

#[test]
fn a_policy_comes_back_from_json_and_has_no_other_fields() {
    let policy = amd::policy();
    policy.check().unwrap();
    let mut json = serde_json::to_value(&policy).unwrap();
    assert_eq!(serde_json::from_value::<Policy>(json.clone()).unwrap(), policy);
    json["products"]["milan"]["ask"] = serde_json::Value::Null;
    serde_json::from_value::<Policy>(json.clone()).unwrap().check().unwrap();
    json["products"]["milan"]["akr"] = "".into();
    serde_json::from_value::<Policy>(json).unwrap_err();
    let naples =
        r#"{"products":{"naples":{"ark":"","minimum_tcb":{"bootloader":0,"tee":0,"snp":0,"microcode":0}}}}"#;
    serde_json::from_str::<Policy>(naples).unwrap_err();
}

#[test]
fn a_policy_under_which_any_guest_or_none_would_do_is_refused() {
    let why = |bend: fn(&mut Policy)| {
        let mut policy = amd::policy();
        bend(&mut policy);
        policy.check().unwrap_err()
    };
    assert!(why(|policy| policy.products.clear()).contains("`products` is empty"));
    assert!(why(|policy| policy.measurements.clear()).contains("any guest would do"));
    assert!(why(|policy| policy.id_key_digests = [Hex([0; 48])].into()).contains("all zero"));
    assert!(why(|policy| policy.max_vmpl = 4).contains("max_vmpl"));
}

#[test]
fn a_product_line_whose_certificates_do_not_belong_together_is_refused() {
    let genoa = Line::of(Product::Genoa);
    assert!(why(|line| (line.ask, line.asvk) = (None, None)).contains("neither"));
    assert!(why(|line| line.minimum_tcb.fmc = 1).contains("fmc"));
    assert!(why(|line| *line = genoa.policy()).contains("another product line"));
    assert!(why(|line| line.ask = Some(der::pem(&genoa.ask))).contains("not issued by `ark`"));
    assert!(why(|line| line.ark = line.ask.clone().unwrap()).contains("not a root"));
    assert!(why(|line| line.ark.push_str(&line.ark.clone())).contains("more than one"));
    assert!(why(|line| line.ark = "ARK-Milan".to_owned()).contains("`ark`"));
}

#[test]
fn an_authority_with_a_short_key_or_another_algorithm_is_refused() {
    let short = Key::rsa_pss(include_bytes!("vectors/short.pk8"));
    let root = |key: &Key| der::pem(&amd::authority("ARK-Milan", "ARK-Milan", 1, key).sign(key));
    assert!(why(|line| line.ark = root(&short)).contains("4096 bits"));
    assert!(
        why(|line| line.ark = root(&Key::rsa_pkcs1(include_bytes!("vectors/ark.pk8"))))
            .contains("RSASSA-PSS")
    );
    assert!(why(|line| line.ark = root(&Key::p384())).contains("RSASSA-PSS"));
}

#[test]
fn a_revocation_list_of_somebody_else_or_of_the_issuer_itself_is_refused() {
    let list = |issuer: &str, key: &Key, serials: &[u8]| {
        let list = der::revocation_list(issuer, key, amd::FROM, amd::TO, serials);
        why(|line| line.revocation_lists = vec![Blob::new(list).unwrap()])
    };
    assert!(list("ARK-Milan", ask_key(), &[]).contains("not signed by `ark`"));
    assert!(list("ARK-Milan", ark_key(), &[2]).contains("revoked"));
    let pkcs1 = Key::rsa_pkcs1(include_bytes!("vectors/ark.pk8"));
    assert!(list("ARK-Milan", &pkcs1, &[]).contains("RSASSA-PSS"));
    assert!(why(|line| line.revocation_lists = vec![Blob::default()]).contains("revocation list"));
    assert!(why(|line| line.revocation_lists = vec![Blob::default(); 5]).contains("more than 4"));
}
