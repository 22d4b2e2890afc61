//! Being somebody at a registry: what goes into the `Authorization` header, and its renewal.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::header::HeaderValue;
use tokio::sync::Mutex;

use super::endpoint::without_secrets;
use crate::oci::credentials::{Credential, CredentialStore};
use crate::oci::error::OciError;
use crate::oci::source::ImageReference;

/// How long the exchange of a credential for a token may take in all.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest message of a registry that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// The authorization for one repository, shared by all requests to it.
pub(super) struct Session {
    client: Client,
    reference: Reference,
    /// As the user wrote it, which is what credentials are stored under.
    host: String,
    credentials: CredentialStore,
    current: Mutex<Authorization>,
}

/// What is sent at present. It starts with nothing, since most images are public.
#[derive(Clone, Default)]
pub(super) struct Authorization {
    pub(super) header: Option<HeaderValue>,
    /// Counts renewals.
    generation: u64,
}

impl Session {
    pub(super) fn new(
        reference: &ImageReference,
        is_plain_http: bool,
        silence_max: Duration,
        credentials: CredentialStore,
    ) -> Result<Self, OciError> {
        let ImageReference { host, repository, .. } = reference.clone();
        let config = ClientConfig {
            protocol: if is_plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(silence_max),
            read_timeout: Some(silence_max),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| unavailable(&host, error))?;
        let reference = Reference::with_tag(host.clone(), repository, String::new());
        Ok(Self { client, reference, host, credentials, current: Mutex::default() })
    }

    /// Returns the name of the registry's API, which Docker Hub has elsewhere than its images say.
    pub(super) fn api_host(&self) -> &str {
        self.reference.resolve_registry()
    }

    pub(super) async fn authorization(&self) -> Authorization {
        self.current.lock().await.clone()
    }

    /// Gets a new authorization in place of `refused`. The lock is held meanwhile on purpose: of
    /// many blobs whose token ends at once, one renews it and the others wait for that.
    pub(super) async fn renew(&self, refused: &Authorization) -> Result<(), OciError> {
        let mut current = self.current.lock().await;
        if current.generation == refused.generation {
            current.header = Some(self.log_in().await?);
            current.generation += 1;
        }
        Ok(())
    }

    async fn log_in(&self) -> Result<HeaderValue, OciError> {
        let found = self.credentials.find(&self.host, self.reference.repository()).await;
        let credential = found
            .map_err(|source| OciError::Credentials { host: self.host.clone(), source })?;
        let auth = match &credential {
            Credential::Anonymous => RegistryAuth::Anonymous,
            Credential::Basic { username, password } => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            Credential::Bearer(token) => RegistryAuth::Bearer(token.clone()),
        };
        let exchange = self.client.auth(&self.reference, &auth, RegistryOperation::Pull);
        let token = tokio::time::timeout(LOGIN_TIMEOUT, exchange).await.map_err(|_| {
            let message = format!("no token within {} s", LOGIN_TIMEOUT.as_secs());
            OciError::Unavailable { what: self.host.clone(), message }
        })?;
        let token = token.map_err(|error| unavailable(&self.host, error))?;
        let value = match (token, credential) {
            (Some(token), _) => format!("Bearer {token}"),
            // The registry wants no token: it takes the password itself.
            (None, Credential::Basic { username, password }) => {
                format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
            }
            (None, _) => return Err(self.denied("it wants a login, and none is configured")),
        };
        let mut header = HeaderValue::try_from(value)
            .map_err(|_| self.denied("its token or the password has control characters"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    fn denied(&self, message: &str) -> OciError {
        OciError::Denied { what: self.host.clone(), message: message.to_owned() }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({}/{})", self.host, self.reference.repository())
    }
}

fn unavailable(host: &str, error: OciDistributionError) -> OciError {
    let what = host.to_owned();
    let short = |text: &str| text.trim().chars().take(MESSAGE_CHARS_MAX).collect::<String>();
    match error {
        OciDistributionError::AuthenticationFailure(reason) => {
            OciError::Denied { what, message: format!("no token: {}", short(&reason)) }
        }
        OciDistributionError::RequestError(error) => {
            OciError::Unavailable { what, message: without_secrets(error) }
        }
        // The message may quote the answer, which holds the token.
        OciDistributionError::RegistryTokenDecodeError(_) => {
            OciError::malformed(what, "the token is not in the form that registries send")
        }
        other => OciError::malformed(what, short(&other.to_string())),
    }
}
