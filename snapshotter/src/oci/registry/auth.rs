//! Shows a registry its credentials, and fetches tokens where it wants those.
//!
//! Protocol: <https://distribution.github.io/distribution/spec/auth/token/> and, for identity
//! tokens, <https://distribution.github.io/distribution/spec/auth/oauth/>.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nacre_blobstore::Clock;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;

use super::challenge::Challenge;
use super::{RegistryOptions, read_bounded, retry};
use crate::oci::credentials::{Credential, CredentialStore};
use crate::oci::error::OciError;
use crate::oci::source::ImageReference;

/// Longest answer of a token server, in bytes.
const TOKEN_BYTES_MAX: u64 = 256 << 10;

/// How this program calls itself to token servers.
const CLIENT_ID: &str = "nacre";

/// The credentials of one repository, and the header that shows them.
pub(super) struct Authenticator {
    host: String,
    repository: String,
    /// Whether the registry is reached by plain HTTP; only then may its token server be.
    plain_http: bool,
    store: CredentialStore,
    http: Client,
    current: RwLock<Option<HeaderValue>>,
    /// Downloads whose token expires at the same time fetch one new token, not one each.
    renewing: Semaphore,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// A token server and what is asked of it.
struct TokenRequest {
    realm: Url,
    service: Option<String>,
    scope: String,
}

impl Authenticator {
    pub(super) fn new(
        reference: &ImageReference,
        plain_http: bool,
        options: &RegistryOptions,
        http: Client,
    ) -> Self {
        Self {
            host: reference.host.clone(),
            repository: reference.repository.clone(),
            plain_http,
            store: options.credentials.clone(),
            http,
            current: RwLock::new(None),
            renewing: Semaphore::new(1),
        }
    }

    /// Returns the header to send, if a registry asked for one yet.
    pub(super) fn current(&self) -> Option<HeaderValue> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the header `refused` by the one that the challenge in `answer` asks for. Does
    /// nothing when someone else has replaced it meanwhile.
    pub(super) async fn renew(
        &self,
        refused: Option<HeaderValue>,
        answer: &HeaderMap,
        clock: &dyn Clock,
    ) -> Result<(), OciError> {
        let _permit = self
            .renewing
            .acquire()
            .await
            .expect("the semaphore is never closed");
        if self.current() != refused {
            return Ok(());
        }
        let credentials = self.store.find(&self.host, &self.repository).await;
        let host = || self.host.clone();
        let credential = credentials.map_err(|source| OciError::Credentials {
            host: host(),
            source,
        })?;
        let header = match (Challenge::of(answer), credential) {
            (
                Some(Challenge::Bearer {
                    realm,
                    service,
                    scope,
                }),
                credential,
            ) => {
                let realm = self.token_server(&realm)?;
                let pull = || format!("repository:{}:pull", self.repository);
                let scope = scope.unwrap_or_else(pull);
                let request = TokenRequest {
                    realm,
                    service,
                    scope,
                };
                let token = self.fetch_token(&request, &credential, clock).await?;
                self.header(format!("Bearer {token}"))?
            }
            (Some(Challenge::Basic), Credential::Password { username, password }) => {
                self.header(basic(&username, &password))?
            }
            (Some(Challenge::Basic), _) => {
                return Err(self.denied("the registry wants a user name and a password"));
            }
            (None, _) => return Err(self.denied("the registry names no way to authenticate")),
        };
        // The same header again: a password that is wrong does not get better.
        if refused.as_ref() == Some(&header) {
            return Err(self.denied("the registry refuses these credentials"));
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(header);
        Ok(())
    }

    /// Parses the URL of a token server, which may see the password.
    fn token_server(&self, realm: &str) -> Result<Url, OciError> {
        let what = || format!("the token server of {}", self.host);
        let realm = Url::parse(realm).map_err(|error| OciError::malformed(what(), error))?;
        match realm.scheme() {
            "https" => Ok(realm),
            "http" if self.plain_http => Ok(realm),
            _ => Err(self.denied("its token server is not reached by https")),
        }
    }

    async fn fetch_token(
        &self,
        request: &TokenRequest,
        credential: &Credential,
        clock: &dyn Clock,
    ) -> Result<String, OciError> {
        let what = format!("a token for {}", self.host);
        let response = retry::send(clock, &what, || request.build(&self.http, credential)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(self.denied("the token server refuses these credentials"));
            }
            status => {
                let message = format!("the token server says {status}");
                return Err(OciError::malformed(what, message));
            }
        }
        let body = read_bounded(response, &what, TOKEN_BYTES_MAX).await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        token
            .filter(|t| !t.is_empty())
            .ok_or_else(|| OciError::malformed(what, "no token in it"))
    }

    fn header(&self, text: String) -> Result<HeaderValue, OciError> {
        let invalid = |_| OciError::malformed(format!("a token for {}", self.host), "not ASCII");
        let mut value = HeaderValue::try_from(text).map_err(invalid)?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn denied(&self, message: &str) -> OciError {
        let what = format!("{}/{}", self.host, self.repository);
        OciError::Denied {
            what,
            message: message.to_owned(),
        }
    }
}

impl TokenRequest {
    fn build(&self, http: &Client, credential: &Credential) -> reqwest::RequestBuilder {
        let service = self.service.as_deref().map(|service| ("service", service));
        let scope = ("scope", self.scope.as_str());
        if let Credential::IdentityToken(token) = credential {
            let fixed = [
                ("grant_type", "refresh_token"),
                ("refresh_token", token.as_str()),
                ("client_id", CLIENT_ID),
                scope,
            ];
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(fixed.into_iter().chain(service))
                .finish();
            let kind = "application/x-www-form-urlencoded";
            return http
                .post(self.realm.clone())
                .header(CONTENT_TYPE, kind)
                .body(form);
        }
        let mut url = self.realm.clone();
        url.query_pairs_mut()
            .extend_pairs([scope].into_iter().chain(service));
        match credential {
            Credential::Password { username, password } => http
                .get(url)
                .header(AUTHORIZATION, basic(username, password)),
            Credential::Anonymous | Credential::IdentityToken(_) => http.get(url),
        }
    }
}

fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authenticator({}/{})", self.host, self.repository)
    }
}
