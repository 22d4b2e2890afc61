//! Which file system a process runs on.
//!
//! `/proc/PID/mountinfo` shows the mounts as the process sees them. The root of a sandbox is an
//! overlay whose lower directory is named after its tree, whatever the mount mode; a process whose
//! root is anything else is not in a sandbox (yet: a runtime enters it on the way).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

use nacre_blobstore::TreeId;

/// Processes that are remembered; beyond them all are forgotten.
const PROCESSES_MAX: usize = 4096;
/// How long a process is known to be in a sandbox: its number may be given to another.
const INSIDE_TTL: Duration = Duration::from_secs(10);
/// How long one is known not to be.
const OUTSIDE_TTL: Duration = Duration::from_millis(50);
/// How much of the list of mounts is read: the root of a sandbox is at its beginning.
const MOUNTINFO_BYTES_MAX: u64 = 256 << 10;

/// Processes and the trees they run on.
#[derive(Debug, Default)]
pub(super) struct Attribution {
    known: HashMap<u32, (Option<TreeId>, Duration)>,
}

impl Attribution {
    /// Returns the tree that is the root of process `pid`, if it is known at the time `now`; the
    /// outer `None` says that it has to be [looked up](look_up).
    pub(super) fn get(&self, pid: u32, now: Duration) -> Option<Option<TreeId>> {
        let (tree, since) = self.known.get(&pid)?;
        let ttl = if tree.is_some() {
            INSIDE_TTL
        } else {
            OUTSIDE_TTL
        };
        (now.saturating_sub(*since) < ttl).then_some(*tree)
    }

    /// Remembers what was looked up.
    pub(super) fn insert(&mut self, pid: u32, tree: Option<TreeId>, now: Duration) {
        if self.known.len() >= PROCESSES_MAX {
            self.known.clear();
        }
        self.known.insert(pid, (tree, now));
    }
}

/// Reads which tree is the root of a process; `None` also when the process is gone. Blocks.
pub(super) fn look_up(pid: u32) -> Option<TreeId> {
    let mut mounts = Vec::new();
    let file = File::open(format!("/proc/{pid}/mountinfo")).ok()?;
    file.take(MOUNTINFO_BYTES_MAX)
        .read_to_end(&mut mounts)
        .ok()?;
    tree_in_mountinfo(&String::from_utf8_lossy(&mounts))
}

/// Finds the tree of the overlay that is mounted on `/`; of several the topmost, which is listed
/// last (proc(5), "mountinfo").
fn tree_in_mountinfo(mounts: &str) -> Option<TreeId> {
    let root = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some("/"))?;
    let (_, after) = root.split_once(" - ")?;
    let mut fields = after.split(' ');
    if fields.next() != Some("overlay") {
        return None;
    }
    let options = fields.nth(1)?;
    let lower = options
        .split(',')
        .find(|option| option.starts_with("lowerdir"))?;
    lower
        .split([':', '/', '='])
        .find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::Digest;

    use super::*;

    fn mountinfo(root: &str) -> String {
        format!(
            "21 1 0:19 /x /old rw - overlay overlay rw,lowerdir=/no\n{root}\n\
             22 21 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n"
        )
    }

    #[test]
    fn the_root_names_its_tree_in_both_modes() {
        let tree = TreeId::new(Digest::of(b"tree"));
        let portable = format!("lowerdir=/r/content/lower/{tree},upperdir=/r/u,workdir=/r/w");
        let kernel = format!(
            "lowerdir=/r/erofs/mounts/{tree}::/r/cache/store::/r/content/content,upperdir=/r/u"
        );
        let added = format!("lowerdir+=/r/erofs/mounts/{tree},datadir+=/r/cache/store");
        for options in [portable, kernel, added] {
            let root =
                format!("30 29 0:50 / / rw,relatime shared:1 - overlay overlay rw,{options}");
            assert_eq!(
                tree_in_mountinfo(&mountinfo(&root)),
                Some(tree),
                "{options}"
            );
        }
    }

    #[test]
    fn other_roots_name_none() {
        let tree = Digest::of(b"tree");
        for root in [
            "30 29 8:1 / / rw - ext4 /dev/vda rw".to_owned(),
            format!("30 29 8:1 / /elsewhere rw - overlay overlay rw,lowerdir=/r/{tree}"),
            format!("30 29 8:1 / / rw - overlay overlay rw,upperdir=/r/{tree}"),
            "30 29 8:1 / / rw - overlay overlay rw,lowerdir=/r/abc".to_owned(),
            "30 29 8:1 / / rw - overlay".to_owned(),
            "30 29 8:1 / /".to_owned(),
            String::new(),
        ] {
            assert_eq!(tree_in_mountinfo(&mountinfo(&root)), None, "{root}");
        }
    }

    #[test]
    fn what_is_known_is_forgotten_in_time_and_bounded() {
        let tree = Some(TreeId::new(Digest::of(b"tree")));
        let mut attribution = Attribution::default();
        attribution.insert(1, tree, Duration::ZERO);
        attribution.insert(2, None, Duration::ZERO);
        assert_eq!(attribution.get(3, Duration::ZERO), None);
        assert_eq!(attribution.get(1, Duration::from_secs(9)), Some(tree));
        assert_eq!(attribution.get(1, Duration::from_secs(10)), None);
        assert_eq!(attribution.get(2, Duration::from_millis(49)), Some(None));
        assert_eq!(attribution.get(2, Duration::from_millis(50)), None);
        for pid in 0..100_000 {
            attribution.insert(pid, None, Duration::ZERO);
            assert!(attribution.known.len() <= PROCESSES_MAX);
        }
    }

    #[test]
    fn this_process_and_one_that_is_gone_are_in_no_sandbox() {
        assert_eq!(look_up(std::process::id()), None);
        assert_eq!(look_up(u32::MAX), None);
    }
}
