//! `nacre containerd setup`.

use crate::node::Node;

const USAGE: i32 = 2;

#[test]
fn settings_are_printed_for_a_version_or_written_beside_what_is_there() {
    let node = Node::new();
    let printed = node.ok(&["containerd", "setup", "--containerd-version", "1.6.20"]);
    let socket = node.path("root").join("snapshotter.sock");
    assert!(printed.contains(&socket.display().to_string()));
    assert!(printed.contains("disable_snapshot_annotations = false"));

    let file = node.path("config.toml");
    std::fs::write(&file, "version = 2\nroot = \"/elsewhere\"\n").unwrap();
    let path = file.display().to_string();
    let write = |version| {
        let write = ["containerd", "setup", "--containerd-version", version];
        node.output(&[&write[..], &["--write", &path]].concat())
    };
    assert!(write("1.7.2").status.success());
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("/elsewhere") && written.contains("[proxy_plugins.nacre]"));
    let kept = std::fs::read_to_string(node.path("config.toml.before-nacre")).unwrap();
    assert_eq!(kept, "version = 2\nroot = \"/elsewhere\"\n");
    assert!(write("1.7.2").status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    // A config of an older syntax has other names for what is to be set.
    assert_eq!(write("2.1.0").status.code(), Some(1));
    node.fails(1, &["containerd", "setup", "--containerd-version", "1.5.0"]);
    node.fails(USAGE, &["containerd", "setup", "--containerd-version", "x"]);
}
