//! TLS: what a certificate and a key make of a connection.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("use certificate {path}: {message}")]
pub struct TlsError {
    path: String,
    message: String,
}

/// A certificate with its chain and key.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads a chain of certificates and its key, both as PEM. Offers HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError`] for files that cannot be read, hold no certificate or key, or do not belong
    /// together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let fail = |path: &Path, error: &dyn std::fmt::Display| TlsError {
            path: path.display().to_string(),
            message: error.to_string(),
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fail(certificate, &error))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fail(key, &error))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(certificate, &error))?
            .with_no_client_auth()
            .with_single_cert(chain, private);
        let mut config = config.map_err(|error| fail(certificate, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) const fn acceptor(&self) -> &TlsAcceptor {
        &self.0
    }
}
