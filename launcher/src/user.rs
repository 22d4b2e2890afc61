//! Who a process runs as: docker's rules for `USER` (moby `daemon/oci_linux.go`, runc
//! `libcontainer/user`), on the root file system's own lists.

use std::path::Path;

use nacre_fs::mount::RootedDir;

use crate::error::LaunchError;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Longest list of users or groups that is read, in bytes.
const LIST_BYTES_MAX: u64 = 4 << 20;
/// Most supplementary groups (the kernel's `NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;
/// Largest user or group number, as in runc.
const ID_MAX: u32 = i32::MAX.cast_unsigned();

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) home: String,
}

/// Resolves `text` (`""`, `user`, `user:group`; names or numbers) in a root file system.
pub(crate) fn resolve(root: &RootedDir, text: &str) -> Result<User, LaunchError> {
    let read = |file: &'static str| {
        root.read(Path::new(file), LIST_BYTES_MAX)
            .map(Option::unwrap_or_default)
            .map_err(LaunchError::io("read in the root file system", file))
    };
    resolve_in(&read(PASSWD)?, &read(GROUP)?, text)
}

fn resolve_in(passwd: &[u8], group: &[u8], text: &str) -> Result<User, LaunchError> {
    let (user_text, group_text) = text.split_once(':').unwrap_or((text, ""));
    let user_text = if user_text.is_empty() { "0" } else { user_text };
    let number = parse_id(user_text);
    let found = entries(passwd).find_map(|fields| {
        let entry = PasswdEntry::parse(&fields)?;
        (entry.name == user_text || number == Some(entry.uid)).then_some(entry)
    });
    let unknown = |kind, name: &str, file| LaunchError::UnknownUser {
        kind,
        name: name.to_owned(),
        file,
    };
    let mut user = match (&found, number) {
        (Some(entry), _) => User {
            uid: entry.uid,
            gid: entry.gid,
            additional_gids: Vec::new(),
            home: entry.home.clone(),
        },
        (None, Some(uid)) => User {
            uid,
            gid: 0,
            additional_gids: Vec::new(),
            home: String::new(),
        },
        (None, None) => return Err(unknown("user", user_text, PASSWD)),
    };
    if user.home.is_empty() {
        "/".clone_into(&mut user.home);
    }
    if group_text.is_empty() {
        if let Some(entry) = &found {
            user.additional_gids = groups_of(group, &entry.name);
        }
    } else {
        let number = parse_id(group_text);
        let listed = entries(group).find_map(|fields| {
            let gid = parse_id(fields.get(2)?)?;
            (fields[0] == group_text || number == Some(gid)).then_some(gid)
        });
        user.gid = listed
            .or(number)
            .ok_or_else(|| unknown("group", group_text, GROUP))?;
    }
    Ok(user)
}

struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl PasswdEntry {
    fn parse(fields: &[String]) -> Option<Self> {
        Some(Self {
            name: fields.first()?.clone(),
            uid: parse_id(fields.get(2)?)?,
            gid: parse_id(fields.get(3)?)?,
            home: fields.get(5).cloned().unwrap_or_default(),
        })
    }
}

fn groups_of(group: &[u8], name: &str) -> Vec<u32> {
    entries(group)
        .filter(|fields| {
            fields
                .get(3)
                .is_some_and(|members| members.split(',').any(|m| m == name))
        })
        .filter_map(|fields| parse_id(&fields[2]))
        .take(GROUPS_MAX)
        .collect()
}

/// The `:`-separated fields of each line; comments and lines that are not UTF-8 are left out.
fn entries(list: &[u8]) -> impl Iterator<Item = Vec<String>> {
    list.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').map(str::to_owned).collect())
}

fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id <= ID_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"# users\nroot:x:0:0:root:/root:/bin/sh\nbroken\n\xff:x:7:7::/:\n\
        web:x:33:34:web:/var/www:/bin/sh\n1000:x:5:5::/odd:\nbare:x:44:45\n";
    const GROUP: &[u8] = b"root:x:0:\nlogs:x:4:sys,web\nweb:x:34:\nadm:x:9:web\nbad:x:y:web\n";

    fn resolved(text: &str) -> Option<(u32, u32, Vec<u32>, String)> {
        resolve_in(PASSWD, GROUP, text)
            .ok()
            .map(|user| (user.uid, user.gid, user.additional_gids, user.home))
    }

    #[test]
    fn names_and_numbers_follow_dockers_rules() {
        let home = str::to_owned;
        let cases = [
            ("", Some((0, 0, vec![], home("/root")))),
            ("web", Some((33, 34, vec![4, 9], home("/var/www")))),
            ("33", Some((33, 34, vec![4, 9], home("/var/www")))),
            ("web:logs", Some((33, 4, vec![], home("/var/www")))),
            ("web:77", Some((33, 77, vec![], home("/var/www")))),
            ("55", Some((55, 0, vec![], home("/")))),
            ("55:web", Some((55, 34, vec![], home("/")))),
            ("1000", Some((5, 5, vec![], home("/odd")))),
            ("bare", Some((44, 45, vec![], home("/")))),
            (":adm", Some((0, 9, vec![], home("/root")))),
            ("nobody", None),
            ("web:nogroup", None),
            ("-1", None),
            ("2147483648", None),
            ("99999999999999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(resolved(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lists_that_are_missing_leave_numbers_and_root() {
        assert!(resolve_in(b"", b"", "").is_ok());
        assert!(resolve_in(b"", b"", "12:13").is_ok());
        assert!(resolve_in(b"", b"", "root").is_err());
    }
}
