use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;

fn load(directory: &Path, json: &str) -> Result<CredentialStore, CredentialsError> {
    let path = directory.join("config.json");
    std::fs::write(&path, json).unwrap();
    CredentialStore::load(&path).map(|store| store.with_helper_directory(directory.to_owned()))
}

fn password(username: &str, password: &str) -> Credential {
    Credential::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

fn helper(directory: &Path, name: &str, script: &str) {
    let path = directory.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_most_specific_entry_counts() {
    let directory = tempfile::tempdir().unwrap();
    let json = r#"{"auths": {
        "host:5000": {"username": "host", "password": "1"},
        "host:5000/team": {"username": "team", "password": "2"},
        "host:5000/team/app": {"auth": "YXBwOnBhOnNz"},
        "https://index.docker.io/v1/": {"username": "hub", "password": "4", "email": "x"},
        "http://old.example/v2/": {"identitytoken": "refresh"},
        "empty.example": {}
    }, "HttpHeaders": {"X": "y"}}"#;
    let store = load(directory.path(), json).unwrap();
    for (host, repository, expected) in [
        ("host:5000", "other", password("host", "1")),
        ("host:5000", "team/x", password("team", "2")),
        ("host:5000", "team/app", password("app", "pa:ss")),
        ("host:5000", "team/apple", password("team", "2")),
        ("docker.io", "library/alpine", password("hub", "4")),
        (
            "old.example",
            "a",
            Credential::IdentityToken("refresh".to_owned()),
        ),
        ("empty.example", "a", Credential::Anonymous),
        ("host", "team/app", Credential::Anonymous),
    ] {
        assert_eq!(
            store.find(host, repository).await.unwrap(),
            expected,
            "{host}/{repository}"
        );
    }
}

#[tokio::test]
async fn helpers_are_asked_for_their_host() {
    let directory = tempfile::tempdir().unwrap();
    let echo = r#"read -r server; printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$server" "$server""#;
    helper(directory.path(), "echo", echo);
    helper(
        directory.path(),
        "token",
        r#"echo '{"Username":"<token>","Secret":"t"}'"#,
    );
    let json = r#"{"auths": {"a.example": {}}, "credsStore": "echo",
        "credHelpers": {"t.example": "token", "docker.io": "echo"}}"#;
    let store = load(directory.path(), json).unwrap();
    let found = store.find("a.example", "x").await.unwrap();
    assert_eq!(found, password("a.example", "s"));
    let found = store.find("docker.io", "library/x").await.unwrap();
    assert_eq!(found, password(DOCKER_HUB_KEY, "s"));
    let found = store.find("t.example", "x").await.unwrap();
    assert_eq!(found, Credential::IdentityToken("t".to_owned()));
}

#[tokio::test]
async fn a_helper_without_credentials_means_anonymous() {
    let directory = tempfile::tempdir().unwrap();
    helper(
        directory.path(),
        "none",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    let store = load(directory.path(), r#"{"credsStore": "none"}"#).unwrap();
    assert_eq!(
        store.find("a.example", "x").await.unwrap(),
        Credential::Anonymous
    );
}

#[tokio::test]
async fn broken_helpers_are_errors_and_show_nothing() {
    let directory = tempfile::tempdir().unwrap();
    helper(
        directory.path(),
        "angry",
        "echo 'the secret is hunter2'; exit 1",
    );
    helper(directory.path(), "chatty", "head -c 70000 /dev/zero");
    helper(directory.path(), "prose", "echo hunter2");
    for name in ["angry", "chatty", "prose", "missing", "../angry", ""] {
        let error = helper::get(name, Some(directory.path()), "a")
            .await
            .unwrap_err();
        assert!(
            matches!(error, CredentialsError::Helper { .. }),
            "{name}: {error}"
        );
        assert!(
            !format!("{error:?} {error}").contains("hunter2"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_helper_that_hangs_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    helper(directory.path(), "slow", "exec sleep 60");
    let limit = Duration::from_millis(200);
    let error = helper::get_within("slow", Some(directory.path()), "a", limit)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[tokio::test]
async fn broken_files_are_errors_and_show_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for json in [
        "",
        "[]",
        r#"{"auths": {"a": "hunter2"}}"#,
        r#"{"auths": {"a": {"auth": 7}}}"#,
    ] {
        let error = load(directory.path(), json).unwrap_err();
        assert!(
            matches!(error, CredentialsError::Malformed { .. }),
            "{json}"
        );
        assert!(
            !format!("{error:?} {error}").contains("hunter2"),
            "{error:?}"
        );
    }
    let large = " ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap()) + "{}";
    assert!(matches!(
        load(directory.path(), &large),
        Err(CredentialsError::Malformed { .. })
    ));
    let store = load(
        directory.path(),
        r#"{"auths": {"a": {"auth": "aHVudGVyMg=="}}}"#,
    )
    .unwrap();
    let error = store.find("a", "x").await.unwrap_err();
    assert!(matches!(error, CredentialsError::Entry(_)), "{error}");
    let missing = CredentialStore::load(&directory.path().join("none")).unwrap();
    assert_eq!(missing.find("a", "x").await.unwrap(), Credential::Anonymous);
}

#[tokio::test]
async fn debug_output_holds_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let json = r#"{"auths": {"a": {"username": "u", "password": "hunter2"}}}"#;
    let store = load(directory.path(), json).unwrap();
    let token = Credential::IdentityToken("hunter2".to_owned());
    let shown = format!(
        "{store:?} {:?} {token:?}",
        store.find("a", "x").await.unwrap()
    );
    assert!(
        !shown.contains("hunter2") && shown.contains("\"u\""),
        "{shown}"
    );
}
