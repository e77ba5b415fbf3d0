//! The claims of a bound service-account token (RFC 7519, and the private claims under `kubernetes.io`).

use std::collections::BTreeMap;

use carrick_types::UnixTime;

use super::{json::Json, policy::ServiceAccount};

type Members = BTreeMap<String, Json>;

/// What a token says. Claims that are not here say nothing that is asked for, `kubernetes.io/warnafter` among them.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: Vec<String>,
    pub(super) iat: UnixTime,
    pub(super) nbf: UnixTime,
    pub(super) exp: UnixTime,
    pub(super) jti: String,
    pub(super) namespace: String,
    pub(super) service_account: Object,
    /// `None` where the token is bound to no pod, but to nothing, a Secret or a Node.
    pub(super) pod: Option<Object>,
    pub(super) node: Option<Object>,
}

/// An object of the API.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) uid: String,
}

impl Claims {
    /// Reads the payload of a token.
    ///
    /// # Errors
    /// What is missing, twice there or of another shape, for people.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, String> {
        let claims = Json::object(payload)?;
        let private = object(&claims, "kubernetes.io")?;
        Ok(Self {
            iss: text(&claims, "iss")?,
            sub: text(&claims, "sub")?,
            aud: audiences(&claims)?,
            iat: time(&claims, "iat")?,
            nbf: time(&claims, "nbf")?,
            exp: time(&claims, "exp")?,
            jti: text(&claims, "jti").map_err(|why| why + ", which Kubernetes 1.30 and later write")?,
            namespace: text(private, "namespace")?,
            service_account: Object::read(private, "serviceaccount")?.ok_or("no serviceaccount")?,
            pod: Object::read(private, "pod")?,
            node: Object::read(private, "node")?,
        })
    }

    /// The service account; `None` where Kubernetes would not take its name.
    pub(super) fn account(&self) -> Option<ServiceAccount> {
        ServiceAccount::new(&self.namespace, &self.service_account.name).ok()
    }
}

impl Object {
    fn read(claims: &Members, name: &str) -> Result<Option<Self>, String> {
        if !claims.contains_key(name) {
            return Ok(None);
        }
        let members = object(claims, name)?;
        let object = Self { name: text(members, "name")?, uid: text(members, "uid")? };
        if object.name.is_empty() || object.uid.is_empty() {
            return Err(format!("a {name} without name or uid"));
        }
        Ok(Some(object))
    }
}

fn object<'a>(claims: &'a Members, name: &str) -> Result<&'a Members, String> {
    match claims.get(name) {
        Some(Json::Object(members)) => Ok(members),
        Some(_) | None => Err(format!("no object {name}")),
    }
}

fn text(claims: &Members, name: &str) -> Result<String, String> {
    claims.get(name).and_then(Json::text).map(str::to_owned).ok_or_else(|| format!("no text {name}"))
}

/// Whole seconds since 1970, as API servers write them.
fn time(claims: &Members, name: &str) -> Result<UnixTime, String> {
    let seconds = claims.get(name).and_then(Json::number).ok_or_else(|| format!("no time {name}"))?;
    Ok(UnixTime::from_millis(seconds.saturating_mul(1000)))
}

/// One text, or a list of them.
fn audiences(claims: &Members) -> Result<Vec<String>, String> {
    let none = || "no aud".to_owned();
    match claims.get("aud") {
        Some(Json::Text(audience)) => Ok(vec![audience.clone()]),
        Some(Json::List(audiences)) => {
            audiences.iter().map(|audience| audience.text().map(str::to_owned).ok_or_else(none)).collect()
        }
        Some(_) | None => Err(none()),
    }
}
