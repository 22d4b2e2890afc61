use std::path::Path;

use serde_json::Value;

use super::*;
use crate::spec::{ExecSpec, ImageDefaults, ProcessOverrides};
use crate::user::User;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn process() -> Process {
    Process {
        args: texts(&["sh", "-c", "true"]),
        env: texts(&["PATH=/bin", "HOME=/root"]),
        cwd: "/work".to_owned(),
        uid: 0,
        gid: 0,
        additional_gids: vec![4, 9],
        terminal: false,
        open_files: 1024,
    }
}

fn spec<'a>(process: &'a Process, extra_mounts: &'a [ExtraMount]) -> BundleSpec<'a> {
    BundleSpec {
        container_id: "0123456789abcdef",
        rootfs: Path::new("/r/rootfs"),
        process,
        hostname: "box",
        network: Network::None,
        memory_bytes: Some(64 << 20),
        cpus: Some(1.5),
        etc: Path::new("/r/etc"),
        extra_mounts,
    }
}

#[test]
fn the_configuration_is_the_golden_one() {
    let mounts = [ExtraMount {
        source: "/data".into(),
        target: "/mnt".into(),
        read_only: true,
    }];
    let actual = config(&spec(&process(), &mounts)).unwrap();
    let golden: Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    assert_eq!(actual, golden, "{actual:#}");
}

#[test]
fn the_hosts_network_has_no_namespace_and_no_limits_none() {
    let process = process();
    let config = config(&BundleSpec {
        network: Network::Host,
        memory_bytes: None,
        cpus: None,
        ..spec(&process, &[])
    });
    let linux = &config.unwrap()["linux"];
    let namespaces = linux["namespaces"].to_string();
    assert!(
        !namespaces.contains("network") && namespaces.contains("pid"),
        "{namespaces}"
    );
    assert!(linux["resources"].get("memory").is_none() && linux["resources"].get("cpu").is_none());
}

#[test]
fn only_root_holds_capabilities() {
    let user = Process {
        uid: 33,
        ..process()
    }
    .to_json();
    let none: [&str; 0] = [];
    assert_eq!(user["capabilities"]["effective"], json!(none));
    assert_eq!(user["capabilities"]["permitted"], json!(none));
    assert_eq!(
        user["capabilities"]["bounding"].as_array().unwrap().len(),
        14
    );
    assert!(user["capabilities"].get("inheritable").is_none());
}

#[test]
fn limits_and_mounts_out_of_range_are_refused() {
    let process = process();
    let with = |memory_bytes, cpus| {
        config(&BundleSpec {
            memory_bytes,
            cpus,
            ..spec(&process, &[])
        })
        .is_ok()
    };
    assert!(with(Some(6 << 20), Some(0.01)));
    for memory in [0, (6 << 20) - 1, u64::MAX] {
        assert!(!with(Some(memory), None), "{memory}");
    }
    for cpus in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert!(!with(None, Some(cpus)), "{cpus}");
    }
    for (source, target) in [
        ("a", "/b"),
        ("/a", "b"),
        ("/a", "/"),
        ("/../a", "/b"),
        ("/a", "/b/.."),
    ] {
        let mounts = [ExtraMount {
            source: source.into(),
            target: target.into(),
            read_only: false,
        }];
        assert!(
            config(&spec(&process, &mounts)).is_err(),
            "{source} {target}"
        );
    }
}

#[test]
fn commands_and_environments_combine_as_dockers() {
    let defaults = ImageDefaults {
        entrypoint: texts(&["entry"]),
        command: texts(&["image"]),
        ..Default::default()
    };
    let wish = ProcessOverrides {
        command: texts(&["caller"]),
        ..Default::default()
    };
    assert_eq!(
        resolve_args(&defaults, &ProcessOverrides::default()),
        ["entry", "image"]
    );
    assert_eq!(resolve_args(&defaults, &wish), ["entry", "caller"]);
    let env = |image: &[&str], caller: &[&str]| {
        build_environment("h", "/root", true, &texts(image), &texts(caller))
    };
    let merged = env(&["PATH=/image", "A=1"], &["A=2=3", "HOME=/else", "B="]).unwrap();
    assert_eq!(
        merged,
        [
            "PATH=/image",
            "HOSTNAME=h",
            "TERM=xterm",
            "HOME=/else",
            "A=2=3",
            "B="
        ]
    );
    for bad in ["A", "=x", ""] {
        assert!(env(&[], &[bad]).is_err(), "{bad:?}");
    }
}

#[test]
fn processes_that_no_runtime_could_start_are_refused() {
    let bad = [
        Process {
            args: Vec::new(),
            ..process()
        },
        Process {
            args: texts(&[""]),
            ..process()
        },
        Process {
            args: texts(&["a\0b"]),
            ..process()
        },
        Process {
            env: vec!["x".repeat(2 << 20)],
            ..process()
        },
        Process {
            cwd: "relative".to_owned(),
            ..process()
        },
    ];
    assert!(process().check().is_ok());
    for process in bad {
        assert!(process.check().is_err(), "{:?}", process.args);
    }
}

#[test]
fn a_command_inherits_the_process_and_changes_what_it_names() {
    let exec = ExecSpec {
        args: texts(&["ls"]),
        terminal: true,
        ..Default::default()
    };
    let plain = exec_process(&process(), &exec, None).unwrap();
    assert_eq!(plain.env, ["PATH=/bin", "HOME=/root", "TERM=xterm"]);
    assert_eq!(
        (plain.cwd.as_str(), plain.uid, plain.terminal),
        ("/work", 0, true)
    );
    let user = User {
        uid: 5,
        gid: 6,
        additional_gids: vec![7],
        home: "/home/u".to_owned(),
    };
    let exec = ExecSpec {
        env: texts(&["HOME=/x"]),
        cwd: Some("/".to_owned()),
        ..exec
    };
    let changed = exec_process(&process(), &exec, Some(user)).unwrap();
    assert_eq!(
        (changed.uid, changed.gid, changed.additional_gids),
        (5, 6, vec![7])
    );
    assert_eq!(
        (changed.cwd.as_str(), changed.env[1].as_str()),
        ("/", "HOME=/x")
    );
}
