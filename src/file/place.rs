//! Where a log is stored, and whether it may be stored there.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, AtFlags};

use crate::error::{Error, Result, shown};

/// Accepted file modes: the owner may read and write, others may be allowed to; nobody may execute.
const OWNER: u32 = 0o600;
const MOST: u32 = 0o666;
/// The longest name of a hub, in bytes: a directory's name may have 255.
const NAME: usize = 200;
/// The directory of presence in that of a log.
pub const WORKERS: &str = "workers";
/// The longest part of a path, and the longest path, in bytes: a system accepts 255 and 1024 or 4096, of which the
/// log's files need some.
const PART: usize = 255;
const PATH: usize = if cfg!(target_os = "linux") { 4096 - 512 } else { 1024 - 512 };

/// The directory of a broker, which contains the logs of its hubs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path, from the root of the file system.
    pub root: PathBuf,
    /// The mode of files.
    pub mode: u32,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::InvalidOption(text.into())
}

/// The path of a URL (`file:events`, `file:///var/lib/events`); anything else is taken as a path.
fn path_of(given: &str) -> Result<PathBuf> {
    let Some(rest) = given.strip_prefix("file:") else { return Ok(given.into()) };
    let path = match rest.strip_prefix("//") {
        Some(rest) if rest.starts_with('/') => rest,
        Some(rest) => rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).ok_or_else(|| {
            invalid(format!(
                "a file: URL names no host, got {}: write file:///path, or file:path from the working directory",
                shown(given)
            ))
        })?,
        None => rest,
    };
    if path.contains(['?', '#']) {
        return Err(invalid(format!(
            "a file: URL has no query or fragment, got {}: options are those of FileBroker, and %3F and %23 stand \
             for ? and # in a path",
            shown(given)
        )));
    }
    decode(path).map(PathBuf::from).ok_or_else(|| invalid(format!("wrong %-escape in {}", shown(given))))
}

fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

impl Place {
    /// The directory that a path or a `file:` URL names; a relative one is resolved against `working`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a URL or mode that breaks a rule.
    pub fn new(given: &Path, mode: u32, working: &Path) -> Result<Self> {
        let path = given.to_str().map_or_else(|| Ok(given.into()), path_of)?;
        if path.as_os_str().is_empty() {
            return Err(invalid(
                "the path of a file broker must not be empty: write file:events, for example",
            ));
        }
        if mode & OWNER != OWNER || mode & !MOST != 0 {
            return Err(invalid(format!(
                "mode must be that of files which the owner may read and write, 0o600 or 0o660, got {mode:#o}"
            )));
        }
        let mut root = PathBuf::new();
        for part in working.join(path).components() {
            if part != Component::CurDir {
                root.push(part);
            }
        }
        let bytes = root.as_os_str().as_bytes();
        if bytes.contains(&0) {
            return Err(invalid("the path of a file broker must not contain a null character"));
        }
        if bytes.len() > PATH || root.iter().any(|part| part.len() > PART) {
            return Err(invalid(format!(
                "the path of a file broker is too long: it may have {PATH} bytes, and each of its parts {PART}"
            )));
        }
        Ok(Self { root, mode })
    }

    /// The directory of a hub's log.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a name that cannot be a directory's.
    pub fn of_hub(&self, name: &str) -> Result<PathBuf> {
        let is_wrong = name.is_empty() || name.len() > NAME || name.starts_with('.') || name.contains('/');
        if is_wrong || name.contains(char::is_control) {
            return Err(invalid(format!(
                "name must be 1 to {NAME} bytes without a slash or control characters, and not begin with a dot, \
                 with a file broker, got {}",
                shown(name)
            )));
        }
        Ok(self.root.join(name))
    }

    /// The mode of directories: users who may read a file may enter its directory.
    fn directory_mode(&self) -> u32 {
        self.mode | (self.mode & 0o444) >> 2
    }

    /// Check that logs may be stored here, as far as can be known before anything is created.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check(&self) -> std::result::Result<(), Refusal> {
        let mut there = self.root.as_path();
        while !there.exists() {
            there = there.parent().unwrap_or(Path::new("/"));
        }
        check_directory(there)?;
        check_file_system(there)?;
        if there == self.root {
            self.check_owner(there)?;
        }
        let may = Access::WRITE_OK | Access::EXEC_OK;
        let user = rustix::process::geteuid().as_raw();
        match rustix::fs::accessat(rustix::fs::CWD, there, may, AtFlags::EACCESS) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::ROFS) => Err(Refusal::Wrong(format!(
                "{} lies on a file system that is mounted read-only: choose another path, or mount it to be written",
                there.display()
            ))),
            Err(_) => Err(Refusal::Denied(format!(
                "this process (user {user}) may not write into {}: let an administrator create {} and give it to \
                 that user, or choose another path",
                there.display(),
                self.root.display()
            ))),
        }
    }

    /// Check what exists of a hub's log.
    ///
    /// # Errors
    /// Why it cannot be used, and what to do.
    pub fn check_log(&self, dir: &Path) -> std::result::Result<(), Refusal> {
        for part in [dir, &dir.join(WORKERS)] {
            match part.symlink_metadata() {
                Ok(found) if found.is_dir() => self.check_owner(part)?,
                // It could lead to where a log may not lie.
                Ok(found) if found.is_symlink() => {
                    return Err(Refusal::Wrong(format!(
                        "{} is a link: the directory of a hub must not be one, but that of the broker may",
                        part.display()
                    )));
                }
                Ok(_) => return Err(no_directory(part)),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Create the directory of a hub's log, if it does not exist, and that of its workers.
    ///
    /// # Errors
    /// The system's error, or why logs may not be stored here.
    pub fn create(&self, dir: &Path) -> io::Result<()> {
        // A file system that is not mounted yet may lie behind it.
        if let Some(link) = self.root.ancestors().find(|part| part.is_symlink() && !part.exists()) {
            let text = format!("{} is a link to a directory that does not exist", link.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        if !self.root.is_dir() {
            if let Some(parent) = self.root.parent() {
                std::fs::create_dir_all(parent)?;
            }
            self.create_one(&self.root)?;
        }
        let denied = |refusal: Refusal| io::Error::new(io::ErrorKind::PermissionDenied, refusal.to_string());
        self.check().map_err(denied)?;
        self.create_one(dir)?;
        self.check_log(dir).map_err(denied)?;
        self.create_one(&dir.join(WORKERS))
    }

    fn create_one(&self, dir: &Path) -> io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            // Whatever the umask.
            Ok(()) => std::fs::set_permissions(dir, PermissionsExt::from_mode(self.directory_mode())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn check_owner(&self, dir: &Path) -> std::result::Result<(), Refusal> {
        let found = dir.metadata().map_err(|error| Refusal::Wrong(format!("{}: {error}", dir.display())))?;
        let user = rustix::process::geteuid().as_raw();
        let is_shared = self.mode & 0o060 == 0o060 && found.mode() & 0o070 == 0o070;
        if found.uid() != user && !is_shared {
            return Err(Refusal::Denied(format!(
                "{} belongs to user {}, and this process runs as user {user}: run all workers as one user, choose \
                 another path, or share it within a group (mode=0o660, and chmod g+rwx)",
                dir.display(),
                found.uid()
            )));
        }
        if found.mode() & 0o002 != 0 && self.mode & 0o002 == 0 {
            return Err(Refusal::Denied(format!(
                "anybody may write into {}: chmod o-w it, or choose another path",
                dir.display()
            )));
        }
        Ok(())
    }
}

/// Why logs may not be stored in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another place is needed.
    Wrong(String),
    /// A right is missing.
    Denied(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Wrong(text) | Self::Denied(text)) = self;
        f.write_str(text)
    }
}

fn no_directory(path: &Path) -> Refusal {
    Refusal::Wrong(format!("{} is not a directory: choose another path", path.display()))
}

fn check_directory(path: &Path) -> std::result::Result<(), Refusal> {
    if path.is_dir() { Ok(()) } else { Err(no_directory(path)) }
}

#[cfg(any(target_os = "linux", test))]
fn without_files(name: &str, dir: &Path) -> Refusal {
    Refusal::Wrong(format!(
        "{} lies on {name}, which shows the system's state and stores no files: choose a path on a local disk",
        dir.display()
    ))
}

fn remote(name: &str, dir: &Path) -> Refusal {
    Refusal::Wrong(format!(
        "{} lies on {name}, where locks, notices of changes or writes to the end of a file are not those of a local \
         disk: choose a path on a local disk, or use RedisBroker for several hosts",
        dir.display()
    ))
}

/// Refuse file systems that are shared between hosts, or emulated.
#[cfg(target_os = "linux")]
fn check_file_system(dir: &Path) -> std::result::Result<(), Refusal> {
    let found =
        rustix::fs::statfs(dir).map_err(|error| Refusal::Wrong(format!("{}: {error}", dir.display())))?;
    // The numbers are 32 bits wide; in a wider signed type, their upper bits may be set.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    let number = found.f_type as u32;
    refusal(number, dir).map_or(Ok(()), Err)
}

/// Why no log may lie on a file system, by its number in statfs(2).
#[cfg(any(target_os = "linux", test))]
fn refusal(number: u32, dir: &Path) -> Option<Refusal> {
    let shared = shared_file_system(number).map(|name| remote(name, dir));
    shared.or_else(|| file_system_without_files(number).map(|name| without_files(name, dir)))
}

#[cfg(target_vendor = "apple")]
fn check_file_system(dir: &Path) -> std::result::Result<(), Refusal> {
    let found =
        rustix::fs::statfs(dir).map_err(|error| Refusal::Wrong(format!("{}: {error}", dir.display())))?;
    let is_local = i64::from(found.f_flags) & i64::from(libc::MNT_LOCAL) != 0;
    if is_local { Ok(()) } else { Err(remote("a network file system", dir)) }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn check_file_system(_: &Path) -> std::result::Result<(), Refusal> {
    Ok(())
}

/// The names of file systems that several hosts share, or that are emulated.
#[cfg(any(target_os = "linux", test))]
fn shared_file_system(number: u32) -> Option<&'static str> {
    Some(match number {
        0x6969 => "NFS",
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x4750_4653 => "GPFS",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x786f_4256 => "a folder that VirtualBox shares",
        _ => return None,
    })
}

/// The names of file systems in which nobody can create a file.
#[cfg(any(target_os = "linux", test))]
fn file_system_without_files(number: u32) -> Option<&'static str> {
    Some(match number {
        0x9fa0 => "procfs",
        0x6265_6572 => "sysfs",
        0x0027_e0eb | 0x6367_7270 => "cgroupfs",
        0x6462_6720 => "debugfs",
        0x7472_6163 => "tracefs",
        0x6265_6570 => "configfs",
        0x7363_6673 => "securityfs",
        0xf97c_ff8c => "selinuxfs",
        0xcafe_4a11 => "bpf",
        0x1cd1 => "devpts",
        0x1980_0202 => "mqueue",
        0x9584_58f6 => "hugetlbfs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(given: &str) -> Result<Place> {
        Place::new(Path::new(given), 0o600, Path::new("/srv/app"))
    }

    #[test]
    fn urls_and_paths() {
        for (given, root) in [
            ("file:events", "/srv/app/events"),
            ("file:./a/./b/", "/srv/app/a/b"),
            ("file:///var/lib/events", "/var/lib/events"),
            ("file:/var/lib/events", "/var/lib/events"),
            ("file://localhost/var/x", "/var/x"),
            ("file:///a%20b%3F", "/a b?"),
            ("events", "/srv/app/events"),
            ("/var/a?b%20", "/var/a?b%20"),
        ] {
            assert_eq!(place(given).unwrap().root, Path::new(root), "{given}");
        }
        let long = format!("/{}", "x".repeat(256));
        let deep = "/xxxxxxx".repeat(500);
        for given in [
            &*long,
            &*deep,
            "/a\0b",
            "",
            "file:",
            "file://",
            "file://host/x",
            "file:///x?timeout=1",
            "file:a#b",
            "file:%zz",
            "file:%0",
        ] {
            assert!(place(given).is_err(), "{given}");
        }
    }

    #[test]
    fn names_and_modes() {
        let place = place("x").unwrap();
        assert_eq!(place.of_hub("default").unwrap(), Path::new("/srv/app/x/default"));
        for name in ["", ".", "..", ".x", "a/b", "a\nb", &"x".repeat(201)] {
            assert!(place.of_hub(name).is_err(), "{name:?}");
        }
        for (mode, directories) in [(0o600, 0o700), (0o660, 0o770), (0o640, 0o750), (0o666, 0o777)] {
            assert_eq!(
                Place::new(Path::new("x"), mode, Path::new("/")).unwrap().directory_mode(),
                directories
            );
        }
        for mode in [0, 0o400, 0o700, 0o1600] {
            assert!(Place::new(Path::new("x"), mode, Path::new("/")).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn file_systems_on_which_no_log_may_lie_are_named() {
        for (number, name, advice) in [
            (0x6969, "NFS", "use RedisBroker"),
            (0xff53_4d42, "SMB", "use RedisBroker"),
            (0x6573_5546, "FUSE", "use RedisBroker"),
            (0x0102_1997, "9p", "use RedisBroker"),
            (0x9fa0, "procfs", "choose a path on a local disk"),
            (0x6265_6572, "sysfs", "choose a path on a local disk"),
        ] {
            let said = refusal(number, Path::new("/srv/x")).unwrap().to_string();
            assert!(said.starts_with(&format!("/srv/x lies on {name}, ")), "{said}");
            assert!(said.contains(advice), "{said}");
        }
        for local in [0xef53, 0x0102_1994, 0x9123_683e, 0x5846_5342, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(refusal(local, Path::new("/srv/x")), None, "{local:x}");
        }
    }
}
