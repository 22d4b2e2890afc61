use super::*;
use nacre_blobstore::{Digest, RecordId, TreeId};

fn snapshot(name: &str, number: u64, parent: &str, kind: Kind) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        name: name.to_owned(),
        number,
        parent: parent.to_owned(),
        kind,
        created_ns: 1,
        updated_ns: 1,
        labels: Labels::new(),
        usage: None,
        remote: None,
        shown: Vec::new(),
    })
}

fn table() -> Table {
    let mut table = Table::default();
    for (name, number, parent, kind) in [
        ("a", 1, "", Kind::Committed),
        ("b", 2, "a", Kind::Committed),
        ("x", 3, "b", Kind::Active),
        ("v", 4, "b", Kind::View),
        ("y", 5, "", Kind::Active),
    ] {
        table.insert(snapshot(name, number, parent, kind));
    }
    table
}

#[test]
fn only_committed_snapshots_have_children() {
    let table = table();
    assert_eq!(table.check_new("n", "").unwrap(), Chain::default());
    assert_eq!(table.check_new("n", "b").unwrap().directories, [2, 1]);
    for taken in ["a", "x", "v"] {
        let refused = table.check_new(taken, "");
        assert!(matches!(refused, Err(SnapshotsError::Exists(_))), "{taken}");
    }
    for parent in ["x", "v"] {
        let refused = table.check_new("n", parent);
        assert!(matches!(refused, Err(SnapshotsError::Invalid(_))));
    }
    let refused = table.check_new("n", "none");
    assert!(matches!(refused, Err(SnapshotsError::NotFound(_))));
    for bad in [String::new(), "k".repeat(NAME_BYTES_MAX + 1)] {
        let refused = table.check_new(&bad, "");
        assert!(matches!(refused, Err(SnapshotsError::Invalid(_))));
    }
}

#[test]
fn what_has_children_stays() {
    let mut table = table();
    for parent in ["a", "b"] {
        let refused = table.check_remove(parent).unwrap_err();
        assert!(matches!(refused, SnapshotsError::Precondition(_)));
        assert!(refused.to_string().contains("remove"));
    }
    let refused = table.check_remove("none");
    assert!(matches!(refused, Err(SnapshotsError::NotFound(_))));
    for name in ["x", "v", "b", "a"] {
        table.check_remove(name).unwrap();
        assert_eq!(table.remove(name).unwrap().name, name);
    }
    assert_eq!(table.len(), 1);
    assert!(table.children.is_empty());
}

#[test]
fn a_commit_keeps_nothing_but_the_directory_and_the_parent() {
    let table = table();
    let labels: Labels = [("new".to_owned(), "1".to_owned())].into();
    let committed = table.committed("c", "x", "", labels.clone(), 9).unwrap();
    let expected = Snapshot {
        created_ns: 9,
        updated_ns: 9,
        labels,
        ..(*snapshot("c", 3, "b", Kind::Committed)).clone()
    };
    assert_eq!(committed, expected);
    let commit = |name, key, parent| table.committed(name, key, parent, Labels::new(), 9);
    assert!(commit("c", "x", "b").is_ok());
    assert!(matches!(
        commit("c", "x", "a"),
        Err(SnapshotsError::Invalid(_))
    ));
    assert!(matches!(
        commit("a", "x", ""),
        Err(SnapshotsError::Exists(_))
    ));
    assert!(matches!(
        commit("x", "x", ""),
        Err(SnapshotsError::Exists(_))
    ));
    assert!(matches!(
        commit("c", "none", ""),
        Err(SnapshotsError::NotFound(_))
    ));
    for key in ["v", "b"] {
        assert!(matches!(
            commit("c", key, ""),
            Err(SnapshotsError::Precondition(_))
        ));
    }
}

#[test]
fn what_is_served_from_the_store_ends_a_chain() {
    let mut table = table();
    let digest = Digest::of(b"x");
    let remote = RemoteLayer {
        image: RecordId::new(digest),
        tree: TreeId::new(digest),
    };
    let served = Snapshot {
        remote: Some(remote),
        ..(*snapshot("r", 6, "a", Kind::Committed)).clone()
    };
    table.insert(Arc::new(served));
    table.insert(snapshot("s", 7, "r", Kind::Committed));
    let expected = Chain {
        directories: vec![7],
        remote: Some(remote),
    };
    assert_eq!(table.check_new("n", "s").unwrap(), expected);
}

#[test]
fn a_damaged_record_hurts_nothing_else() {
    let whole = table();
    let mut rows: Vec<_> = whole
        .all()
        .map(|snapshot| (snapshot.name.clone().into_bytes(), snapshot.encode()))
        .collect();
    rows[1].1[9] ^= 1;
    let mut table = Table::load(rows);
    assert!(!table.is_whole());
    assert_eq!(table.len(), 4);
    assert!(matches!(table.get("b"), Err(SnapshotsError::Damaged(_))));
    assert!(matches!(
        table.check_new("b", ""),
        Err(SnapshotsError::Exists(_))
    ));
    assert!(matches!(
        table.check_new("n", "b"),
        Err(SnapshotsError::Damaged(_))
    ));
    assert!(table.check_new("n", "a").is_ok());
    for name in ["x", "v"] {
        table.check_remove(name).unwrap();
        table.remove(name);
    }
    table.check_remove("b").unwrap();
    assert!(table.remove("b").is_none());
    assert!(table.is_whole());
    assert!(table.check_new("b", "a").is_ok());
}

#[test]
fn filters_are_or_ed_and_nothing_comes_twice() {
    let table = table();
    let list = |texts: &[&str]| -> Vec<String> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let found = table.matching(&Filter::parse_all(&texts).unwrap());
        found.iter().map(|found| found.name.clone()).collect()
    };
    assert_eq!(list(&[]), ["a", "b", "v", "x", "y"]);
    assert_eq!(list(&["parent==b"]), ["v", "x"]);
    assert_eq!(list(&["parent==b,kind==view"]), ["v"]);
    assert_eq!(list(&["parent==\"\""]), ["a", "y"]);
    assert_eq!(
        list(&["name==x", "kind==active", "parent==b"]),
        ["v", "x", "y"]
    );
    assert_eq!(list(&["name==x,parent==a"]), [""; 0]);
    assert_eq!(list(&["parent==none"]), [""; 0]);
}
