//! Programs that keep credentials: `docker-credential-NAME get`.
//!
//! The protocol is that of docker/docker-credential-helpers: the server's name goes to standard
//! input, JSON comes from standard output; on failure there is a message instead.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::{Credential, CredentialsError};

/// How long a helper may take; it may have to ask a cloud's metadata service.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer of a helper, in bytes. Tokens of clouds are a few KiB long.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What helpers say for servers that they know nothing of.
const NOT_FOUND: &str = "credentials not found";

/// The user name that marks a secret as an identity token.
const IDENTITY_TOKEN: &str = "<token>";

/// What docker asks helpers for when it means Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper `name` for the credential of `server`. `None`: it has none.
pub(super) async fn get(
    directory: Option<&Path>,
    name: &str,
    server: &str,
) -> Result<Option<Credential>, CredentialsError> {
    let program = format!("docker-credential-{name}");
    let failed = |message: String| CredentialsError::Helper { program: program.clone(), message };
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(failed("not the name of a helper".to_owned()));
    }
    let path = directory.map_or_else(|| program.clone().into(), |d| d.join(&program));
    let child = Command::new(path)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let server = if server == "docker.io" { DOCKER_HUB } else { server };
    let talk = tokio::time::timeout(HELPER_TIMEOUT, talk(child, server));
    let timed_out = |_| failed(format!("no answer within {} s", HELPER_TIMEOUT.as_secs()));
    let (succeeded, output) =
        talk.await.map_err(timed_out)?.map_err(|error| failed(error.to_string()))?;
    if !succeeded {
        let message = String::from_utf8_lossy(&output);
        let message: String = message.trim().chars().take(200).collect();
        return if message.contains(NOT_FOUND) { Ok(None) } else { Err(failed(message)) };
    }
    // The parser's message may quote the answer, which holds the secret.
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| failed("malformed answer".to_owned()))?;
    match answer {
        Answer { secret, .. } if secret.is_empty() => Ok(None),
        Answer { username, .. } if username == IDENTITY_TOKEN => {
            Err(CredentialsError::IdentityToken)
        }
        Answer { username, secret } => Ok(Some(Credential::Basic { username, password: secret })),
    }
}

async fn talk(mut child: Child, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that answers without having read the question is none of our business.
        match stdin.write_all(format!("{server}\n").as_bytes()).await {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}
