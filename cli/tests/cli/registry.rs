//! Images from a registry: Debian's docker-registry, filled by skopeo.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::json;

use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::tar::{Entry, archive};

const NOT_FOUND: i32 = 10;
const START_POLLS_MAX: u32 = 200;

/// A registry that ends with the test.
pub(crate) struct Registry {
    process: Child,
    pub(crate) address: String,
    log: PathBuf,
}

impl Registry {
    pub(crate) fn start(node: &Node) -> Self {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{free}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            node.empty("registry").display()
        );
        let path = node.path("registry.yml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        let log = node.path("registry.log");
        let file = std::fs::File::create(&log).unwrap();
        command
            .arg("serve")
            .arg(path)
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let process = command.spawn().expect("docker-registry is installed");
        let answers = (0..START_POLLS_MAX).any(|_| {
            pause();
            TcpStream::connect(free).is_ok()
        });
        assert!(answers, "the registry does not answer");
        Self {
            process,
            address: free.to_string(),
            log,
        }
    }

    /// Returns the log, with a line for each request.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // An error says that it has ended already.
        self.process.kill().unwrap_or(());
        drop(self.process.wait());
    }
}

#[test]
fn images_come_from_a_registry() {
    let node = Node::new();
    let registry = Registry::start(&node);
    let entries = [
        Entry::file("file", "from afar"),
        Entry::symlink("link", "file"),
    ];
    let layer = Layer::new(&archive(&entries), Packing::Gzip);
    let diff_id = layer.diff_id.clone();
    layout::write(&node.path("layout"), &[layer], &json!({"Cmd": ["/file"]}));
    let local = format!("oci:{}:v1", node.path("layout").display());
    let remote = format!("docker://{}/team/app:v1", registry.address);
    let output = Command::new("skopeo")
        .args([
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &local,
            &remote,
        ])
        .output()
        .expect("skopeo is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let pulled = node.json(&["image", "add", &remote]);
    let unpacked = node.json(&["image", "add", &local, "--name", "local"]);
    assert_eq!(pulled["tree"], unpacked["tree"]);
    assert_eq!(unpacked["chunks_new"], 0);
    let shown = node.json(&["image", "inspect", pulled["name"].as_str().unwrap()]);
    assert_eq!(shown["config"]["config"]["Cmd"], json!(["/file"]));
    assert_eq!(shown["layers"][0]["diff_id"], diff_id.as_str());
    // What is known is not pulled again.
    assert_eq!(node.json(&["image", "add", &remote])["unchanged"], true);

    for missing in ["team/app:none", "nobody/app:v1"] {
        let source = format!("docker://{}/{missing}", registry.address);
        let line = node.fails(NOT_FOUND, &["image", "add", &source]);
        assert!(line.contains(missing), "{line}");
    }
    node.fsck();
}
