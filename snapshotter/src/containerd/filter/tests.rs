use super::super::record::Kind;
use super::*;

fn snapshot() -> Snapshot {
    Snapshot {
        name: "k8s.io/7/sha256:ab".to_owned(),
        number: 1,
        parent: "p, \"q\"".to_owned(),
        kind: Kind::Committed,
        created_ns: 0,
        updated_ns: 0,
        labels: [
            ("plain", "v"),
            ("containerd.io/snapshot.ref", "sha256:ab"),
            ("a.b", "c"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        usage: None,
        remote: None,
        shown: Vec::new(),
    }
}

fn matches(filters: &[&str]) -> bool {
    let texts: Vec<_> = filters.iter().map(|text| (*text).to_owned()).collect();
    let parsed = Filter::parse_all(&texts).unwrap();
    parsed.iter().any(|filter| filter.matches(&snapshot()))
}

#[test]
fn selectors_match_as_containerd_has_it() {
    for matching in [
        "",
        "name==k8s.io/7/sha256:ab",
        "kind==committed",
        " kind == committed , labels.plain==v",
        "labels.plain",
        "labels.\"plain\"==v",
        "labels.a.b==c",
        "labels.\"a.b\"",
        "labels.\"containerd.io/snapshot.ref\"==sha256:ab",
        "labels.\"containerd.io/snapshot.ref\"==\"sha256:ab\"",
        "parent==\"p, \\\"q\\\"\"",
        "parent!=\"\"",
        "labels.none!=x",
        "unknown!=x",
        "name~=^k8s",
        "name~=/^k8s\\\\.io\\/7/",
        "name~=|sha256:[a-f]+|",
        "kind!=active",
        "name==\"k8s.io/7/sha256\\x3aab\"",
        "name==\"k8s.io/7/sha256\\072ab\"",
        "name==\"k8s.io/7/sha256\\u003aab\"",
    ] {
        assert!(matches(&[matching]), "{matching}");
    }
    for other in [
        "name==x",
        "kind==active",
        "kind==committed,labels.plain==w",
        "labels.none",
        "labels",
        "unknown",
        "unknown==x",
        "labels.plain!=v",
        "name~=^x",
        "parent==\"\"",
    ] {
        assert!(!matches(&[other]), "{other}");
    }
    assert!(matches(&["kind==active", "labels.plain"]), "one suffices");
    assert!(!matches(&["kind==active", "labels.none"]));
}

#[test]
fn what_is_no_filter_is_refused() {
    for bad in [
        ",",
        "name==",
        "name=x",
        "name===x",
        "==x",
        "name==x,",
        "name==x y",
        "name x",
        "labels.",
        "labels.\"a",
        "name==\"x",
        "name==/x/",
        "name==\"\\q\"",
        "name==\"\\x4\"",
        "name==\"\\U00110000\"",
        "name~=(",
        "name~=(a{1000}){1000}",
        "name==\"a\nb\"",
        "na-me==x",
    ] {
        let refused = Filter::parse_all(&[bad.to_owned()]);
        assert!(matches!(refused, Err(SnapshotsError::Invalid(_))), "{bad}");
    }
    let long = format!("name=={}", "x".repeat(FILTER_BYTES_MAX));
    assert!(Filter::parse_all(&[long]).is_err());
    assert!(Filter::parse_all(&vec![String::new(); FILTERS_MAX + 1]).is_err());
}

#[test]
fn equality_narrows_where_to_look() {
    let narrowed = |text: &str| {
        let filter = Filter::parse(text).unwrap();
        match filter.narrowed() {
            Narrowed::Name(name) => format!("name {name}"),
            Narrowed::Parent(parent) => format!("parent {parent}"),
            Narrowed::All => "all".to_owned(),
        }
    };
    assert_eq!(narrowed("labels.a==b,parent==p"), "parent p");
    assert_eq!(narrowed("parent==p,name==n"), "name n");
    assert_eq!(narrowed("parent!=p"), "all");
    assert_eq!(narrowed("name~=n"), "all");
    assert_eq!(narrowed(""), "all");
}
