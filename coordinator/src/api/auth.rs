//! Who asks, and whether they may.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use carrick_types::{Credential, Role};
use http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::ApiError;
use crate::{app::App, connection::Connection, store::CredentialRecord};

/// Lets viewers read and admins do everything.
pub(super) async fn require(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(role) = role(request.headers(), &app.credentials) else {
        return ApiError::unauthorized().into_response();
    };
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        connection.slot.known();
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || role == Role::Admin { next.run(request).await } else { ApiError::forbidden().into_response() }
}

/// What the request's credential allows; `None` without a good one.
///
/// A browser sends a Basic credential along with every request, whoever's page made it: it never allows more than reading.
fn role(headers: &HeaderMap, known: &[CredentialRecord]) -> Option<Role> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        role_of(rest, known)
    } else if scheme.eq_ignore_ascii_case("basic") {
        let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (_, password) = text.split_once(':')?;
        role_of(password, known).map(|role| role.min(Role::Viewer))
    } else {
        None
    }
}

/// Compares with every credential, in the same time whichever matches.
fn role_of(text: &str, known: &[CredentialRecord]) -> Option<Role> {
    let credential: Credential = text.parse().ok()?;
    let hash: [u8; 32] = Sha256::digest(credential.expose()).into();
    let mut found = 0_u8;
    for record in known {
        let role = match record.role {
            Role::Viewer => 1,
            Role::Admin => 2,
        };
        let same: Choice = record.hash.ct_eq(&hash);
        found.conditional_assign(&role, same);
    }
    match found {
        1 => Some(Role::Viewer),
        2 => Some(Role::Admin),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::CaPin;

    use super::*;

    #[test]
    fn a_credential_counts_by_its_secret_and_basic_only_reads() {
        let credential =
            |role, secret| Credential::new(role, CaPin::from_bytes([1; 32]).unwrap(), [secret; 32]);
        let record = |role, secret: u8| CredentialRecord { role, hash: Sha256::digest([secret; 32]).into() };
        let known = [record(Role::Viewer, 1), record(Role::Admin, 2)];
        let ask = |authorization: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
            role(&headers, &known)
        };
        let admin = credential(Role::Admin, 2);
        assert_eq!(ask(format!("Bearer {admin}")), Some(Role::Admin));
        assert_eq!(
            ask(format!("Bearer {}", credential(Role::Admin, 1))),
            Some(Role::Viewer),
            "a viewer's secret"
        );
        assert_eq!(ask(format!("Bearer {}", credential(Role::Admin, 3))), None);
        assert_eq!(ask(format!("Basic {}", STANDARD.encode(format!("me:{admin}")))), Some(Role::Viewer));
        for junk in ["Bearer", "Bearer x", "Basic x", "Basic eA==", "Digest x", ""] {
            assert_eq!(ask(junk.to_owned()), None, "{junk}");
        }
    }
}
