//! Asks a docker credential helper: a program that keeps secrets in the system's keychain.
//!
//! Protocol: <https://github.com/docker/docker-credential-helpers#development>.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Credential, CredentialsError};

/// Longest wait for a helper. Some ask the user or a cloud.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer of a helper, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What helpers print when they hold nothing for a server. They have no other way to say so.
const NOT_FOUND: &str = "credentials not found";

/// The user name by which a helper marks a refresh token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Runs `docker-credential-NAME get` for `server`.
pub(super) async fn get(
    name: &str,
    directory: Option<&Path>,
    server: &str,
) -> Result<Credential, CredentialsError> {
    get_within(name, directory, server, TIMEOUT).await
}

pub(super) async fn get_within(
    name: &str,
    directory: Option<&Path>,
    server: &str,
    timeout: Duration,
) -> Result<Credential, CredentialsError> {
    let program = format!("docker-credential-{name}");
    let fail = |message: String| CredentialsError::Helper {
        program: program.clone(),
        message,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(fail("not a name of a helper".to_owned()));
    }
    let path = directory.map_or_else(|| (&program).into(), |directory| directory.join(&program));
    let answer = tokio::time::timeout(timeout, run(&path, server)).await;
    let timed_out = |_| fail(format!("no answer within {timeout:?}"));
    let (success, output) = answer
        .map_err(timed_out)?
        .map_err(|error| fail(error.to_string()))?;
    if output.len() as u64 > ANSWER_BYTES_MAX {
        return Err(fail(format!("the answer is over {ANSWER_BYTES_MAX} bytes")));
    }
    if !success {
        // By the protocol this is a message. It is not shown: a broken helper may put more there.
        let message = String::from_utf8_lossy(&output);
        if message.contains(NOT_FOUND) {
            return Ok(Credential::Anonymous);
        }
        return Err(fail("ended with an error".to_owned()));
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| fail("the answer is no JSON".to_owned()))?;
    Ok(match answer {
        Answer { username, secret } if username.is_empty() && secret.is_empty() => {
            Credential::Anonymous
        }
        Answer { username, secret } if username == TOKEN_USER => Credential::IdentityToken(secret),
        Answer { username, secret } => Credential::Password {
            username,
            password: secret,
        },
    })
}

/// Returns whether the program succeeded and at most one byte more than the longest answer.
async fn run(program: &Path, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(server.as_bytes()).await {
            // A helper that does not read its input may answer all the same.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(ANSWER_BYTES_MAX + 1)
            .read_to_end(&mut output)
            .await?;
    }
    if output.len() as u64 > ANSWER_BYTES_MAX {
        child.kill().await?;
        return Ok((false, output));
    }
    Ok((child.wait().await?.success(), output))
}
