//! What is refused, and what is not.

#[path = "../../testdata/issuer.rs"]
mod issuer;

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::issuer::{ISSUER, Issuer, claims};
use super::*;
use crate::Verdict;

const TRANSCRIPT: Transcript = Transcript::from_bytes([9; 64]);
const SECOND: u64 = 1_800_000_000;
const NOW: UnixTime = UnixTime::from_millis(SECOND * 1000);

fn policy(issuer: &Issuer) -> Policy {
    let policy: Policy = serde_json::from_value(json!({
        "issuer": ISSUER,
        "jwks": issuer.jwks(),
        "service_accounts": ["carrick-system/carrick-node"],
    }))
    .unwrap();
    policy.check().unwrap();
    policy
}

fn good() -> Value {
    claims(&audience(&TRANSCRIPT), SECOND)
}

/// Changes the value at a path such as `/kubernetes.io/pod/name`.
fn with(path: &str, value: Value) -> Value {
    let mut claims = good();
    *claims.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
    claims
}

/// Without the last member of a path.
fn without(path: &str) -> Value {
    let mut claims = good();
    let (parent, name) = path.rsplit_once('/').unwrap();
    claims.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    claims
}

fn evidence(token: &str) -> Option<Evidence> {
    Some(Evidence { token: token.to_owned().try_into().ok()? })
}

fn appraised(token: &str, policy: &Policy) -> Appraisal {
    appraise(&evidence(token).unwrap(), policy, &TRANSCRIPT, NOW)
}

/// The claim for which a token is refused, and its value.
fn refusal(token: &str, policy: &Policy) -> (String, String) {
    let appraisal = appraised(token, policy);
    assert!(!appraisal.is_accepted());
    let claim = appraisal.refusal().unwrap_or_else(|| panic!("accepted: {token}"));
    (claim.name.clone(), claim.value.clone())
}

/// The claim for which a token with these claims is refused, whatever signs it.
fn refused(claims: &Value) -> String {
    let refused_by = |issuer: Issuer| refusal(&issuer.token(claims), &policy(&issuer)).0;
    let (rsa, p256) = (refused_by(Issuer::rsa()), refused_by(Issuer::p256()));
    assert_eq!(rsa, p256);
    rsa
}

/// Whether a text is accepted, as evidence that came over the wire.
fn is_accepted(token: &str, policy: &Policy) -> bool {
    evidence(token).is_some_and(|evidence| appraise(&evidence, policy, &TRANSCRIPT, NOW).is_accepted())
}

#[test]
fn a_token_of_the_pinned_issuer_for_this_session_is_accepted_claim_by_claim() {
    for issuer in [Issuer::rsa(), Issuer::p256()] {
        let appraisal = appraised(&issuer.token(&good()), &policy(&issuer));
        assert!(appraisal.is_accepted(), "{appraisal:?}");
        let accepted: Vec<&str> = appraisal
            .claims
            .iter()
            .filter(|claim| claim.verdict == Verdict::Accepted)
            .map(|claim| claim.name.as_str())
            .collect();
        assert_eq!(
            accepted,
            [
                "key",
                "algorithm",
                "signature",
                "issuer",
                "audience",
                "jti",
                "issued at",
                "not before",
                "expires at",
                "lifetime",
                "subject",
                "service account",
                "pod"
            ]
        );
        let shown =
            |name: &str| appraisal.claims.iter().find(|claim| claim.name == name).unwrap().value.clone();
        assert_eq!(shown("service account"), "carrick-system/carrick-node");
        assert_eq!(shown("pod"), "carrick-node-x7k2p (5e0bd49b-f040-43b0-99b7-22765a53f7f3)");
        assert_eq!(shown("node"), "east-1 (646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1)");
    }
}

#[test]
fn tokens_that_the_api_servers_own_code_made_are_accepted() {
    let made: Vec<Value> = serde_json::from_str(include_str!("../../testdata/kubernetes-1.34.json")).unwrap();
    assert_eq!(made.len(), 2, "of RSA, and of P-256");
    for made in made {
        let policy = Policy {
            issuer: made["openid-configuration"]["issuer"].as_str().unwrap().to_owned(),
            jwks: serde_json::from_value(made["jwks"].clone()).unwrap(),
            bound_to_node: true,
            ..policy(&Issuer::rsa())
        };
        policy.check().unwrap();
        let evidence = evidence(made["token"].as_str().unwrap()).unwrap();
        let made_at = evidence.unverified_claims().unwrap().iat;
        let appraisal = appraise(&evidence, &policy, &TRANSCRIPT, made_at);
        assert!(appraisal.is_accepted(), "{appraisal:?}");
        // The tests' own issuer writes what this one does.
        let members = |claims: &Value| {
            let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            [names(claims), names(&claims["kubernetes.io"]), names(&claims["kubernetes.io"]["pod"])]
        };
        let claims: Value = serde_json::from_slice(&evidence.token.parts().unwrap().payload).unwrap();
        assert_eq!(members(&claims), members(&good()));
    }
}

#[test]
fn a_header_may_say_that_it_is_of_a_jwt_and_claims_may_be_there_that_nobody_asks_for() {
    let issuer = Issuer::rsa();
    let header = json!({"alg": "RS256", "kid": "rsa-1", "typ": "JWT"}).to_string();
    assert!(appraised(&issuer.sign(&header, &good().to_string()), &policy(&issuer)).is_accepted());
    let mut more = good();
    more["kubernetes.io"]["warnafter"] = json!(SECOND + 60);
    more["new"] = json!({"in": ["a", "later", "version"]});
    more["aud"] = json!(audience(&TRANSCRIPT));
    assert!(appraised(&issuer.token(&more), &policy(&issuer)).is_accepted());
}

#[test]
fn an_algorithm_other_than_the_pinned_keys_is_refused_none_above_all() {
    let (rsa, p256) = (Issuer::rsa(), Issuer::p256());
    for alg in ["none", "None", "NONE", "", "RS384", "RS512", "PS256", "ES256", "HS256", "rs256"] {
        let header = json!({"alg": alg, "kid": "rsa-1"}).to_string();
        let signed = rsa.sign(&header, &good().to_string());
        assert_eq!(refusal(&signed, &policy(&rsa)), ("algorithm".to_owned(), alg.to_owned()));
        let unsigned = format!("{}.", signed.rsplit_once('.').unwrap().0);
        assert_eq!(refusal(&unsigned, &policy(&rsa)).0, "algorithm");
    }
    let header = json!({"alg": "RS256", "kid": "ec-1"}).to_string();
    assert_eq!(refusal(&p256.sign(&header, &good().to_string()), &policy(&p256)).0, "algorithm");
}

#[test]
fn hs256_with_the_public_key_as_its_secret_is_refused() {
    for issuer in [Issuer::rsa(), Issuer::p256()] {
        let jwk = issuer.jwk();
        let kid = jwk["kid"].as_str().unwrap();
        let secrets = [
            jwk.to_string().into_bytes(),
            jwk["n"].to_string().into_bytes(),
            issuer.jwks().to_string().into_bytes(),
        ];
        for secret in secrets {
            // An HMAC in a header of the right algorithm is no signature either.
            for alg in ["HS256", issuer.algorithm()] {
                let header = json!({"alg": alg, "kid": kid}).to_string();
                let signed = format!(
                    "{}.{}",
                    URL_SAFE_NO_PAD.encode(header),
                    URL_SAFE_NO_PAD.encode(good().to_string())
                );
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
                let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
                let claim = refusal(&token, &policy(&issuer)).0;
                assert_eq!(claim, if alg == "HS256" { "algorithm" } else { "signature" });
            }
        }
    }
}

#[test]
fn a_token_for_another_audience_is_refused() {
    let bound = audience(&TRANSCRIPT);
    for other in [
        "https://kubernetes.default.svc".to_owned(),
        "carrick/".to_owned(),
        bound.clone() + "=",
        bound[8..].to_owned(),
    ] {
        assert_eq!(refused(&with("/aud", json!([other]))), "audience");
    }
    assert_eq!(refused(&with("/aud", json!([]))), "audience");
    assert_eq!(refused(&with("/aud", json!([1]))), "claims");
    assert_eq!(refused(&with("/aud", json!({}))), "claims");
    assert_eq!(refused(&without("/aud")), "claims");
}

#[test]
fn a_token_with_a_second_audience_is_refused() {
    let bound = audience(&TRANSCRIPT);
    assert_eq!(refused(&with("/aud", json!([bound, "https://kubernetes.default.svc"]))), "audience");
    assert_eq!(refused(&with("/aud", json!(["https://kubernetes.default.svc", bound]))), "audience");
    assert_eq!(refused(&with("/aud", json!([bound, bound]))), "audience");
}

#[test]
fn a_token_of_another_transcript_is_refused() {
    let issuer = Issuer::p256();
    let token = issuer.token(&good());
    let evidence = evidence(&token).unwrap();
    for at in 0..64 {
        let mut other = [9; 64];
        other[at] ^= 1;
        let appraisal = appraise(&evidence, &policy(&issuer), &Transcript::from_bytes(other), NOW);
        assert_eq!(appraisal.refusal().unwrap().name, "audience");
    }
}

#[test]
fn a_token_of_another_issuer_is_refused() {
    for other in ["https://kubernetes.default.svc.cluster.local/", "", "kubernetes/serviceaccount"] {
        assert_eq!(refused(&with("/iss", json!(other))), "issuer");
    }
    let (pinned, stranger) = (Issuer::p256(), Issuer::p256());
    assert_eq!(
        refusal(&stranger.token(&good()), &policy(&pinned)).0,
        "signature",
        "the same kid, another key"
    );
}

#[test]
fn a_token_that_is_not_yet_valid_is_refused_unless_clocks_may_be_so_far_apart() {
    let issuer = Issuer::rsa();
    let skew = MAX_SKEW.as_secs();
    for (claim, name) in [("/nbf", "not before"), ("/iat", "issued at")] {
        assert_eq!(refused(&with(claim, json!(SECOND + skew + 1))), name);
        assert!(is_accepted(&issuer.token(&with(claim, json!(SECOND + skew))), &policy(&issuer)));
        assert_eq!(refused(&with(claim, json!(u64::MAX))), name);
    }
}

#[test]
fn an_expired_token_is_refused_and_stays_good_as_of_the_moment_at_which_it_was_appraised() {
    let issuer = Issuer::rsa();
    let evidence = evidence(&issuer.token(&good())).unwrap();
    let as_of = |seconds: u64| {
        let at = NOW.saturating_add(Duration::from_secs(seconds));
        appraise(&evidence, &policy(&issuer), &TRANSCRIPT, at).refusal().map(|claim| claim.name.clone())
    };
    let last = 600 + MAX_SKEW.as_secs() - 1;
    assert_eq!((as_of(0), as_of(last)), (None, None));
    assert_eq!(as_of(last + 1).unwrap(), "expires at");
    let forgotten = evidence.jwt_id().unwrap().forget_at;
    assert_eq!(forgotten, NOW.saturating_add(Duration::from_secs(last + 1)), "nobody takes it from then on");
}

#[test]
fn a_token_that_lives_longer_than_the_policy_says_or_backwards_is_refused() {
    assert_eq!(refused(&with("/exp", json!(SECOND + 3601))), "lifetime");
    assert_eq!(refused(&with("/iat", json!(SECOND - 3001))), "lifetime");
    assert_eq!(refused(&with("/exp", json!(u64::MAX))), "lifetime");
    assert_eq!(refused(&with("/exp", json!(SECOND))), "lifetime");
    assert_eq!(refused(&with("/exp", json!(SECOND - 1))), "lifetime");
    let issuer = Issuer::rsa();
    assert!(is_accepted(&issuer.token(&with("/exp", json!(SECOND + 3600))), &policy(&issuer)));
    for claim in ["/exp", "/nbf", "/iat"] {
        for no_time in [json!("1800000000"), json!(1.8e9), json!(-1), Value::Null] {
            assert_eq!(refused(&with(claim, no_time)), "claims");
        }
        assert_eq!(refused(&without(claim)), "claims");
    }
}

#[test]
fn a_token_without_an_id_is_refused() {
    assert_eq!(refused(&without("/jti")), "claims");
    assert_eq!(refused(&with("/jti", json!(""))), "jti");
    let issuer = Issuer::rsa();
    let id = evidence(&issuer.token(&good())).unwrap().jwt_id().unwrap();
    assert_eq!((id.issuer.as_str(), id.jti.as_str()), (ISSUER, "2c32bf59-3bea-4d5e-b9cb-3c8ed8a4e4b8"));
}

#[test]
fn a_token_of_a_key_that_is_not_pinned_is_refused() {
    let issuer = Issuer::p256();
    for kid in ["ec-2", "", "EC-1", "ec-1\n"] {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        let (name, value) = refusal(&issuer.sign(&header, &good().to_string()), &policy(&issuer));
        assert_eq!(name, "key");
        assert!(!value.contains(char::is_control));
    }
    let header = json!({"alg": "ES256"}).to_string();
    assert_eq!(refusal(&issuer.sign(&header, &good().to_string()), &policy(&issuer)).0, "token");
}

#[test]
fn a_token_verifies_with_the_key_that_it_names_and_no_other() {
    let (rsa, p256) = (Issuer::rsa(), Issuer::p256());
    let both = Policy {
        jwks: serde_json::from_value(json!({"keys": [rsa.jwk(), p256.jwk()]})).unwrap(),
        ..policy(&rsa)
    };
    both.check().unwrap();
    assert!(is_accepted(&rsa.token(&good()), &both));
    assert!(is_accepted(&p256.token(&good()), &both));
    let header = json!({"alg": "RS256", "kid": "rsa-1"}).to_string();
    assert_eq!(refusal(&p256.sign(&header, &good().to_string()), &both).0, "signature");
}

#[test]
fn a_claim_that_is_there_twice_is_refused_at_every_level() {
    let issuer = Issuer::rsa();
    let text = good().to_string();
    let bound = json!([audience(&TRANSCRIPT)]).to_string();
    for (once, twice) in [
        ("{\"aud\"", format!("{{\"aud\":[\"https://kubernetes.default.svc\"],\"aud\":{bound},\"aud\"")),
        ("\"sub\":", "\"sub\":\"system:serviceaccount:kube-system:admin\",\"sub\":".to_owned()),
        ("\"sub\":", "\"\\u0073ub\":\"system:serviceaccount:kube-system:admin\",\"sub\":".to_owned()),
        ("\"exp\":", "\"exp\":1,\"exp\":".to_owned()),
        ("\"kubernetes.io\":", "\"kubernetes.io\":{},\"kubernetes.io\":".to_owned()),
        ("\"namespace\":", "\"namespace\":\"kube-system\",\"namespace\":".to_owned()),
        ("\"pod\":{", "\"pod\":{\"name\":\"other\",".to_owned()),
    ] {
        let changed = text.replacen(once, &twice, 1);
        assert_ne!(changed, text, "{once}");
        let header = json!({"alg": "RS256", "kid": "rsa-1"}).to_string();
        let (name, why) = refusal(&issuer.sign(&header, &changed), &policy(&issuer));
        assert_eq!(name, "claims");
        assert!(why.contains("twice"), "{why}");
    }
    let header = r#"{"alg":"none","kid":"rsa-1","alg":"RS256"}"#;
    let (name, why) = refusal(&issuer.sign(header, &text), &policy(&issuer));
    assert_eq!(name, "token");
    assert!(why.contains("twice"), "{why}");
}

#[test]
fn a_header_that_asks_for_anything_else_is_refused() {
    let issuer = Issuer::rsa();
    for more in [
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": []}),
        json!({"jwk": issuer.jwk()}),
        json!({"jku": "https://example.com/jwks"}),
        json!({"x5c": []}),
        json!({"zip": "DEF"}),
        json!({"typ": "at+jwt"}),
        json!({"typ": 1}),
        json!({"alg": 1}),
    ] {
        let mut header = json!({"alg": "RS256", "kid": "rsa-1"});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let token = issuer.sign(&header.to_string(), &good().to_string());
        assert_eq!(refusal(&token, &policy(&issuer)).0, "token", "{more}");
    }
}

#[test]
fn a_token_that_is_bound_to_no_pod_is_refused() {
    assert_eq!(refused(&without("/kubernetes.io/pod")), "pod");
    for halved in ["/kubernetes.io/pod/uid", "/kubernetes.io/pod/name"] {
        assert_eq!(refused(&without(halved)), "claims");
        assert_eq!(refused(&with(halved, json!(""))), "claims");
    }
    assert_eq!(refused(&with("/kubernetes.io/pod", Value::Null)), "claims");
    assert_eq!(refused(&without("/kubernetes.io")), "claims");
}

#[test]
fn a_token_that_names_no_node_is_refused_where_the_policy_asks_for_one() {
    let issuer = Issuer::rsa();
    let lax = policy(&issuer);
    let strict = Policy { bound_to_node: true, ..lax.clone() };
    let token = issuer.token(&without("/kubernetes.io/node"));
    assert!(is_accepted(&token, &lax));
    assert_eq!(refusal(&token, &strict).0, "node");
    assert!(is_accepted(&issuer.token(&good()), &strict));
}

#[test]
fn a_service_account_that_is_not_named_is_refused() {
    let account = |namespace: &str, name: &str| {
        let mut claims = good();
        claims["kubernetes.io"]["namespace"] = json!(namespace);
        claims["kubernetes.io"]["serviceaccount"]["name"] = json!(name);
        claims["sub"] = json!(format!("system:serviceaccount:{namespace}:{name}"));
        claims
    };
    for (namespace, name) in [
        ("carrick-system", "default"),
        ("default", "carrick-node"),
        ("carrick-system/carrick-node", "x"),
        ("carrick-system", "carrick-node/x"),
        ("", "carrick-system/carrick-node"),
        ("Carrick-system", "carrick-node"),
    ] {
        assert_eq!(refused(&account(namespace, name)), "service account");
    }
}

#[test]
fn a_subject_that_contradicts_the_private_claims_is_refused() {
    for other in ["system:serviceaccount:kube-system:carrick-node", "system:node:east-1", ""] {
        assert_eq!(refused(&with("/sub", json!(other))), "subject");
    }
    assert_eq!(refused(&with("/kubernetes.io/namespace", json!("kube-system"))), "subject");
    assert_eq!(refused(&with("/kubernetes.io/serviceaccount/name", json!("admin"))), "subject");
    assert_eq!(refused(&without("/kubernetes.io/serviceaccount/uid")), "claims");
}

#[test]
fn a_bit_that_is_flipped_at_any_byte_is_refused() {
    for issuer in [Issuer::rsa(), Issuer::p256()] {
        let (policy, token) = (policy(&issuer), issuer.token(&good()));
        assert!(is_accepted(&token, &policy));
        for at in 0..token.len() {
            for bit in 0..7 {
                let mut bent = token.clone().into_bytes();
                bent[at] ^= 1 << bit;
                let bent = String::from_utf8(bent).unwrap();
                assert!(!is_accepted(&bent, &policy), "byte {at}, bit {bit}");
            }
        }
    }
}

#[test]
fn a_token_that_is_cut_or_has_something_behind_or_before_it_is_refused() {
    for issuer in [Issuer::rsa(), Issuer::p256()] {
        let (policy, token) = (policy(&issuer), issuer.token(&good()));
        for length in 0..token.len() {
            assert!(!is_accepted(&token[..length], &policy), "cut to {length}");
            assert!(!is_accepted(&token[length + 1..], &policy), "cut from {length}");
        }
        for more in ["A", "AA", "AAAA", ".", "=", " ", "\n", "\0"] {
            assert!(!is_accepted(&format!("{token}{more}"), &policy), "{more:?} behind");
            assert!(!is_accepted(&format!("{more}{token}"), &policy), "{more:?} before");
        }
    }
}

#[test]
fn base64_with_padding_or_of_another_alphabet_is_refused() {
    let issuer = Issuer::p256();
    let (policy, token) = (policy(&issuer), issuer.token(&good()));
    let parts: Vec<&str> = token.split('.').collect();
    for part in 0..3 {
        let altered = |change: &dyn Fn(&str) -> String| {
            let changed = change(parts[part]);
            (changed != parts[part]).then(|| {
                let mut parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                parts[part] = changed;
                parts.join(".")
            })
        };
        for change in [
            &|part: &str| format!("{part}="),
            &|part: &str| format!("{part}=="),
            &|part: &str| part.replace('-', "+").replace('_', "/"),
            &|part: &str| format!("{}\n{}", &part[..4], &part[4..]),
            &|part: &str| format!("{part} "),
        ] as [&dyn Fn(&str) -> String; 5]
        {
            if let Some(token) = altered(change) {
                assert!(!is_accepted(&token, &policy), "{token}");
            }
        }
    }
    // The last character of 64 bytes holds two bits of them; the other four are zero, or it is another spelling.
    let (rest, last) = token.split_at(token.len() - 1);
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
        assert_eq!(is_accepted(&format!("{rest}{other}"), &policy), last.starts_with(other), "{other}");
    }
}

#[test]
fn an_oversized_token_is_refused_before_it_is_looked_at() {
    let issuer = Issuer::rsa();
    let mut padded = good();
    padded["padding"] = json!("x".repeat(MAX_TOKEN));
    let token = issuer.token(&padded);
    assert!(matches!(CompactJws::try_from(token.clone()), Err(MalformedToken::TooLong(_))));
    serde_json::from_value::<Evidence>(json!({"token": token})).unwrap_err();
    let huge = "A".repeat(100 * 1024 * 1024);
    assert!(matches!(CompactJws::try_from(huge), Err(MalformedToken::TooLong(_))));
    // The longest that is read is judged as any other.
    let most = MAX_TOKEN - issuer.token(&with("/jti", json!(""))).len();
    let longest = issuer.token(&with("/jti", json!("x".repeat(most / 4 * 3))));
    assert!((MAX_TOKEN - 4..=MAX_TOKEN).contains(&longest.len()), "{}", longest.len());
    let appraisal = appraised(&longest, &policy(&issuer));
    assert!(appraisal.is_accepted());
    assert!(appraisal.claims.iter().all(|claim| claim.value.chars().count() <= MAX_SHOWN));
}

#[test]
fn values_that_are_nested_into_each_other_are_refused() {
    let issuer = Issuer::rsa();
    let header = json!({"alg": "RS256", "kid": "rsa-1"}).to_string();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [9, 100, 600] {
            let bomb = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            let text = good().to_string().replacen('{', &format!("{{\"bomb\":{bomb},"), 1);
            let (name, why) = refusal(&issuer.sign(&header, &text), &policy(&issuer));
            assert_eq!(name, "claims");
            assert!(why.contains("deeply"), "{why}");
            assert_eq!(refusal(&issuer.sign(&bomb, &good().to_string()), &policy(&issuer)).0, "token");
        }
    }
    assert_eq!(refusal(&issuer.sign(&header, &"[".repeat(5000)), &policy(&issuer)).0, "claims");
}

#[test]
fn evidence_of_another_kind_is_no_token() {
    let issuer = Issuer::rsa();
    let token = issuer.token(&good());
    let read = |value: Value| serde_json::from_value::<crate::Evidence>(value);
    read(json!({"kind": "kubernetes", "token": token})).unwrap();
    for kind in ["identity", "join-token", "tpm", "sev-snp", "tdx", "nitro"] {
        assert!(read(json!({"kind": kind, "token": token})).is_err(), "{kind}");
    }
    read(json!({"kind": "kubernetes", "token": token, "capability": {}})).unwrap_err();
    read(json!({"kind": "kubernetes", "capability": {}, "signature": ""})).unwrap_err();
    read(json!({"kind": "kubernetes", "report": "AAAA"})).unwrap_err();
    read(json!({"kind": "kubernetes", "token": "AAAA"})).unwrap_err();
    // The mounted token of the pod itself, and one for the transcript of another kind, are for others to hear.
    assert_eq!(refused(&with("/aud", json!([ISSUER]))), "audience");
}

#[test]
fn a_policy_says_what_is_senseless_in_it() {
    let good = policy(&Issuer::rsa());
    let check = |change: &dyn Fn(&mut Policy)| {
        let mut policy = good.clone();
        change(&mut policy);
        policy.check().unwrap_err()
    };
    assert!(Policy::default().check().unwrap_err().contains("openid-configuration"));
    assert!(check(&|policy| policy.issuer.push('\n')).contains("issuer"));
    assert!(check(&|policy| policy.jwks.keys.clear()).contains("/openid/v1/jwks"));
    assert!(check(&|policy| policy.jwks.keys.push(policy.jwks.keys[0].clone())).contains("two keys"));
    assert!(check(&|policy| policy.service_accounts.clear()).contains("service_accounts"));
    assert!(check(&|policy| policy.max_ttl_s = 599).contains("max_ttl_s"));
    assert!(check(&|policy| policy.max_ttl_s = 86_401).contains("max_ttl_s"));
    let keys = |change: Value| {
        let mut key = if change.get("crv").is_some() { Issuer::p256().jwk() } else { Issuer::rsa().jwk() };
        key.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let jwks = serde_json::from_value::<KeySet>(json!({"keys": [key]}));
        jwks.map_err(|error| error.to_string()).and_then(|jwks| Policy { jwks, ..good.clone() }.check())
    };
    let modulus = |bytes: usize, first: u8| {
        let mut modulus = vec![0xff; bytes];
        modulus[0] = first;
        json!({"n": URL_SAFE_NO_PAD.encode(modulus)})
    };
    keys(json!({})).unwrap();
    keys(modulus(256, 0x80)).unwrap();
    for bad in [
        modulus(256, 0x7f),
        modulus(128, 0xff),
        modulus(257, 0),
        modulus(1025, 0xff),
        json!({"n": ""}),
        json!({"n": "A="}),
        json!({"e": "Aw"}),
        json!({"e": "AQAA"}),
        json!({"e": URL_SAFE_NO_PAD.encode([1; 5])}),
        json!({"kid": ""}),
        json!({"kid": "x".repeat(257)}),
        json!({"use": "enc"}),
        json!({"alg": "RS512"}),
        json!({"kty": "oct", "k": "AAAA"}),
        json!({"d": "AAAA"}),
        json!({"crv": "P-384"}),
        json!({"crv": "P-256", "x": "AAAA"}),
        json!({"crv": "P-256", "d": "AAAA"}),
    ] {
        assert!(keys(bad.clone()).is_err(), "{bad}");
    }
    keys(json!({"crv": "P-256"})).unwrap();
}

#[test]
fn a_service_account_is_a_namespace_and_a_name() {
    for good in ["carrick-system/carrick-node", "a/b.c", "1/2"] {
        assert_eq!(good.parse::<ServiceAccount>().unwrap().to_string(), good);
    }
    for bad in ["", "a", "/", "a/", "/a", "a/b/c", "*/a", "a/*", "A/a", "a/-b", "a/b..c", "a.b/c", "a/b\n"] {
        bad.parse::<ServiceAccount>().expect_err(bad);
    }
    let long = format!("{}/a", "a".repeat(64));
    long.parse::<ServiceAccount>().unwrap_err();
}

#[test]
fn what_is_learnt_of_a_node_is_its_service_account_and_nothing_else() {
    let issuer = Issuer::rsa();
    let mut draft = Policy::default();
    learn(&evidence(&issuer.token(&good())).unwrap(), &mut draft);
    let account = "carrick-system/carrick-node".parse().unwrap();
    assert_eq!(draft, Policy { service_accounts: [account].into(), ..Policy::default() });
    learn(&evidence("AAAA.AAAA.AAAA").unwrap(), &mut draft);
    assert_eq!(draft.service_accounts.len(), 1);
}

proptest! {
    #[test]
    fn no_text_is_accepted_unless_the_issuer_wrote_it(text in "[A-Za-z0-9_.-]{0,400}") {
        prop_assert!(!is_accepted(&text, &policy(&Issuer::rsa())));
    }

    #[test]
    fn no_claims_make_the_appraisal_panic(text in "\\PC{0,200}", at in 0_usize..800, length in 0_usize..20) {
        let issuer = Issuer::p256();
        let header = json!({"alg": "ES256", "kid": "ec-1"}).to_string();
        prop_assert!(!is_accepted(&issuer.sign(&header, &text), &policy(&issuer)));
        // Something else in the middle of claims that are good otherwise.
        let mut claims = good().to_string();
        let (from, to) = (at.min(claims.len()), (at + length).min(claims.len()));
        claims.replace_range(from..to, &text);
        if let Some(evidence) = evidence(&issuer.sign(&header, &claims)) {
            appraise(&evidence, &policy(&issuer), &TRANSCRIPT, NOW);
        }
    }

    #[test]
    fn any_change_of_what_matters_is_refused(claim in prop::sample::select(vec!["/iss", "/sub", "/aud/0", "/jti"]), value in "\\PC{0,40}") {
        let changed = with(claim, json!(value));
        let issuer = Issuer::p256();
        let same = changed == good() || (claim == "/jti" && !value.is_empty());
        prop_assert_eq!(is_accepted(&issuer.token(&changed), &policy(&issuer)), same);
    }
}
