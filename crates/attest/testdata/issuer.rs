//! An issuer of bound service-account tokens, which writes them as an API server does.
//!
//! The tests of several crates include this file, so nothing of Carrick is in here.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]
#![allow(unreachable_pub, reason = "what includes this file decides how far it is seen")]

use aws_lc_rs::{
    io::Positive,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Whoever signs tokens.
pub struct Issuer {
    kid: String,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
}

/// The issuer's name.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

impl Issuer {
    /// Signs with RSA: a key that everybody knows, since making one takes long.
    pub fn rsa() -> Self {
        let key = RsaKeyPair::from_pkcs8(include_bytes!("rsa-2048.pk8")).unwrap();
        Self { kid: "rsa-1".to_owned(), key: Key::Rsa(key) }
    }

    /// Signs with P-256: a new key each time.
    pub fn p256() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
        Self { kid: "ec-1".to_owned(), key: Key::P256(key) }
    }

    /// The algorithm that it signs with.
    pub fn algorithm(&self) -> &'static str {
        match self.key {
            Key::Rsa(_) => "RS256",
            Key::P256(_) => "ES256",
        }
    }

    /// Its public key, as `/openid/v1/jwks` shows it.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.key {
            Key::Rsa(key) => {
                let bytes = |number: Positive<'_>| encode(number.big_endian_without_leading_zero());
                let (n, e) = (bytes(key.public_key().modulus()), bytes(key.public_key().exponent()));
                json!({"use": "sig", "kty": "RSA", "kid": self.kid, "alg": "RS256", "n": n, "e": e})
            }
            Key::P256(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({"use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256", "x": x, "y": y})
            }
        }
    }

    /// What `/openid/v1/jwks` answers.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk()]})
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": self.algorithm(), "kid": self.kid}).to_string(), &claims.to_string())
    }

    /// A token with this header and these claims, whatever they are.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            Key::P256(key) => key.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The claims of a token for an audience, made at some second since 1970.
pub fn claims(audience: &str, now: u64) -> Value {
    json!({
        "aud": [audience],
        "exp": now + 600,
        "iat": now,
        "iss": ISSUER,
        "jti": "2c32bf59-3bea-4d5e-b9cb-3c8ed8a4e4b8",
        "kubernetes.io": {
            "namespace": "carrick-system",
            "node": {"name": "east-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": "carrick-node-x7k2p", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": "carrick-node", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"}
        },
        "nbf": now,
        "sub": "system:serviceaccount:carrick-system:carrick-node"
    })
}
