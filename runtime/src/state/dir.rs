//! The state directories: made, read, written, locked and removed, by descriptor.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;

use super::{ContainerId, State};
use crate::bundle;
use crate::error::{CONTAINER_DOES_NOT_EXIST, CONTAINER_EXISTS, Context as _, Error, Result};
use crate::sys::fd::write_all;
use crate::sys::path::{self, open_own};

/// The gate while the container is being created.
pub const GATE_CREATING: &str = "start.fifo.new";
/// The gate on which a created container waits for `start`.
pub const GATE: &str = "start.fifo";
/// The FIFO on which the init process tells `start` how execve went.
pub const STARTED: &str = "started.fifo";
/// What `create` recorded.
const STATE: &str = "state.json";
/// The same while it is written.
const STATE_NEW: &str = "state.json.new";
/// A copy of the bundle's config.json as it was at creation (row G4).
const CONFIG: &str = "config.json";

/// The directory for the socket on which the container's service says that it is ready.
pub const NOTIFY: &str = "notify";
/// That socket.
pub const NOTIFY_SOCKET: &str = "notify.sock";

/// Every file that skeg makes in a state directory: what `delete` removes beside [`NOTIFY`], and nothing else (row A16).
const NAMES: [&str; 6] = [GATE_CREATING, GATE, STARTED, STATE, STATE_NEW, CONFIG];

/// The most that is read of a state file or a configuration, and so the most that is written: what the largest configuration brings
/// into a state (annotations, hooks), and room for what is added to it. A state that could not be read again would be a container
/// that nobody can end.
pub const FILE_LIMIT: usize = bundle::CONFIG_LIMIT + (1 << 20);

/// What a user without privileges is told, who can have containers too.
const FOR_A_USER: &str = "without root, --root or XDG_RUNTIME_DIR has to name a directory of the user's own";

/// The directory that holds the state directories of all containers (`--root`).
#[derive(Debug)]
pub struct StateRoot {
    path: PathBuf,
    fd: OwnedFd,
}

impl StateRoot {
    /// Opens the state root, made with mode 0700 where it is missing.
    ///
    /// # Errors
    /// A root that is a link, belongs to another user, or that others may write to (row G2).
    pub fn open_or_create(path: &Path) -> Result<Self> {
        match Self::open(path)? {
            Some(root) => Ok(root),
            None => {
                make_root(path)?;
                Self::open(path)?
                    .ok_or_else(|| Error::new(format!("open {}: it has just been removed", path.display())))
            }
        }
    }

    /// Opens the state root; `None` where there is none, and so no container.
    ///
    /// # Errors
    /// A root that is a link, belongs to another user, or that others may write to (row G2).
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let fd = match path::open_given(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => {
                let error = Error::from_errno(format!("open the state root {}", path.display()), errno);
                // Root's, and the caller is a user.
                let is_foreign = errno == Errno::EACCES && !nix::unistd::geteuid().is_root();
                return Err(if is_foreign { error.because(FOR_A_USER) } else { error });
            }
        };
        let stat = path::stat(&fd).context(|| format!("open the state root {}", path.display()))?;
        if stat.st_uid != nix::unistd::geteuid().as_raw() {
            let owner = stat.st_uid;
            return Err(Error::new(format!("state root {}: belongs to user {owner}", path.display())));
        }
        if stat.st_mode & 0o022 != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(Error::new(format!(
                "state root {}: mode {mode:04o} lets other users write to it",
                path.display()
            )));
        }
        Ok(Some(Self { path: path.to_owned(), fd }))
    }

    /// The ids of all containers: the directories of the root whose names are ids, in order.
    ///
    /// # Errors
    /// What reading the directory said.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let what = || format!("read the state root {}", self.path.display());
        let mut dir =
            Dir::openat(&self.fd, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).context(what)?;
        let mut ids = Vec::new();
        for entry in dir.iter() {
            let entry = entry.context(what)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_string_lossy();
            if let Ok(id) = ContainerId::parse(&name) {
                ids.push(id);
            }
        }
        ids.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(ids)
    }

    /// Whether the container has been recorded.
    pub fn has_record(&self, id: &ContainerId) -> bool {
        let record = format!("{}/{STATE}", id.as_str());
        open_own(&self.fd, &*record, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()).is_ok()
    }

    /// Makes the state directory of a new container: whoever makes it has the id (row G7).
    ///
    /// # Errors
    /// [`CONTAINER_EXISTS`], or what mkdir said.
    pub fn create(&self, id: &ContainerId) -> Result<ContainerDir> {
        let what = || format!("make the state directory of container {id}");
        match nix::sys::stat::mkdirat(&self.fd, id.as_str(), Mode::S_IRWXU) {
            Err(Errno::EEXIST) => return Err(Error::new(CONTAINER_EXISTS)),
            other => other.context(what)?,
        }
        let open = || -> Result<ContainerDir> {
            let dir = self.container(id)?;
            // The umask may have taken our own bits (row E15).
            nix::sys::stat::fchmod(&dir.fd, Mode::S_IRWXU).context(what)?;
            Ok(dir)
        };
        // Nobody else has it yet; what stays of it after that is `delete --force`'s.
        open().inspect_err(|_| {
            let _ = path::remove_dir(&self.fd, id.as_str());
        })
    }

    /// The state directory of a container.
    ///
    /// # Errors
    /// [`CONTAINER_DOES_NOT_EXIST`].
    pub fn container(&self, id: &ContainerId) -> Result<ContainerDir> {
        match open_own(&self.fd, id.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()) {
            Ok(fd) => {
                let root = self.fd.try_clone().context(|| "duplicate a descriptor")?;
                Ok(ContainerDir { root, id: id.clone(), fd })
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(Error::new(CONTAINER_DOES_NOT_EXIST)),
            Err(errno) => {
                Err(Error::from_errno(format!("open the state directory of container {id}"), errno))
            }
        }
    }
}

/// Makes the state root and the directories above it, whatever the umask is.
fn make_root(path: &Path) -> Result<()> {
    let what = || format!("make the state root {}", path.display());
    let mut reached = PathBuf::new();
    let mut made = false;
    for part in path.components() {
        path::append(&mut reached, part);
        match nix::unistd::mkdir(&reached, Mode::S_IRWXU) {
            Ok(()) => made = true,
            Err(Errno::EEXIST) => made = false,
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        }
    }
    if made {
        // By descriptor: where others may write to the directory above, there may be a link by now.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let root = path::open_given(path, flags, Mode::empty()).context(what)?;
        nix::sys::stat::fchmod(&root, Mode::S_IRWXU).context(what)?;
    }
    Ok(())
}

/// The state directory of one container.
#[derive(Debug)]
pub struct ContainerDir {
    root: OwnedFd,
    id: ContainerId,
    fd: OwnedFd,
}

/// Held while a command changes a container; given up with its descriptor, however the process ends. (nix's `Flock` unlocks by
/// another call, and panics where that fails.)
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

impl ContainerDir {
    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The right to change this container; waits for whoever has it.
    ///
    /// # Errors
    /// The errno of flock(2); [`CONTAINER_DOES_NOT_EXIST`] where it was deleted meanwhile.
    pub fn lock(&self) -> Result<Lock> {
        let lock = self.try_lock(|file| file.lock().map_err(TryLockError::Error))?;
        lock.ok_or_else(|| Error::new(format!("lock container {}: interrupted", self.id)))
    }

    /// The same without waiting: `None` where another command has it.
    ///
    /// # Errors
    /// The errno of flock(2); [`CONTAINER_DOES_NOT_EXIST`] where it was deleted meanwhile.
    pub fn lock_now(&self) -> Result<Option<Lock>> {
        self.try_lock(File::try_lock)
    }

    fn try_lock(
        &self,
        how: impl FnOnce(&File) -> std::result::Result<(), TryLockError>,
    ) -> Result<Option<Lock>> {
        let what = || format!("lock container {}", self.id);
        // A description of its own: a lock belongs to the open file description.
        let own =
            open_own(&self.fd, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).context(what)?;
        let file = File::from(own);
        match how(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).context(what),
        }
        if path::stat(&self.fd).context(what)?.st_nlink == 0 {
            return Err(Error::new(CONTAINER_DOES_NOT_EXIST));
        }
        Ok(Some(Lock(file)))
    }

    /// Whether a `create` is at work on it: it has the directory locked until it returns, however it returns.
    ///
    /// # Errors
    /// The errno of flock(2).
    pub fn is_being_created(&self) -> Result<bool> {
        self.try_lock(File::try_lock_shared).map(|lock| lock.is_none())
    }

    /// Makes a FIFO that only the owner can open.
    ///
    /// # Errors
    /// The errno of mkfifoat(3).
    pub fn make_fifo(&self, name: &str) -> Result<()> {
        nix::unistd::mkfifoat(&self.fd, name, Mode::S_IRUSR | Mode::S_IWUSR)
            .context(|| format!("make {name} of container {}", self.id))
    }

    /// Makes a FIFO and opens it for both: it then never blocks, and never sees an end while we hold it (fifo(7)).
    ///
    /// # Errors
    /// The errno of mkfifoat(3) or openat2(2).
    pub fn open_fifo(&self, name: &str) -> Result<OwnedFd> {
        self.make_fifo(name)?;
        self.open(name, OFlag::O_RDWR).context(|| format!("open {name} of container {}", self.id))
    }

    /// Opens a file of the directory.
    ///
    /// # Errors
    /// The errno of openat2(2).
    pub fn open(&self, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        open_own(&self.fd, name, flags, Mode::empty())
    }

    /// Makes [`NOTIFY`]: every user of the container may look into it.
    ///
    /// # Errors
    /// What making it said.
    pub fn make_notify(&self) -> Result<()> {
        let what = || format!("make the notify directory of container {}", self.id);
        nix::sys::stat::mkdirat(&self.fd, NOTIFY, Mode::S_IRWXU).context(what)?;
        let mode = Mode::from_bits_truncate(0o755);
        let flags = nix::sys::stat::FchmodatFlags::NoFollowSymlink;
        nix::sys::stat::fchmodat(&self.fd, NOTIFY, mode, flags).context(what)
    }

    /// Opens [`NOTIFY`]; `None` where the container has none.
    ///
    /// # Errors
    /// What opening it said.
    pub fn open_notify(&self) -> Result<Option<OwnedFd>> {
        match open_own(&self.fd, NOTIFY, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT) => Ok(None),
            other => {
                other.context(|| format!("open the notify directory of container {}", self.id)).map(Some)
            }
        }
    }

    /// Renames a file of the directory.
    ///
    /// # Errors
    /// The errno of renameat(2).
    pub fn rename(&self, from: &str, to: &str) -> nix::Result<()> {
        nix::fcntl::renameat(&self.fd, from, &self.fd, to)
    }

    /// Removes a file of the directory: `ENOENT` tells whoever came second.
    ///
    /// # Errors
    /// The errno of unlinkat(2).
    pub fn unlink(&self, name: &str) -> nix::Result<()> {
        nix::unistd::unlinkat(&self.fd, name, nix::unistd::UnlinkatFlags::NoRemoveDir)
    }

    /// Whether the directory has a file of this name.
    pub fn has(&self, name: &str) -> bool {
        nix::sys::stat::fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// Records the state: written aside, then renamed, so that a reader sees all of it or none. Not fsynced: after a
    /// crash of the host no container of it lives, and a torn file is an error for its id alone.
    ///
    /// # Errors
    /// What writing or renaming said.
    pub fn write_state(&self, state: &State) -> Result<()> {
        let what = || format!("write the state of container {}", self.id);
        let json = serde_json::to_vec(state).map_err(|error| Error::new(error.to_string())).context(what)?;
        self.write_file(STATE_NEW, &json).context(what)?;
        self.rename(STATE_NEW, STATE).context(what)
    }

    /// Keeps the configuration as it was read.
    ///
    /// # Errors
    /// What writing said.
    pub fn write_config(&self, json: &[u8]) -> Result<()> {
        self.write_file(CONFIG, json).context(|| format!("keep the configuration of container {}", self.id))
    }

    fn write_file(&self, name: &str, data: &[u8]) -> nix::Result<()> {
        if data.len() > FILE_LIMIT {
            return Err(Errno::EFBIG);
        }
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
        let file = open_own(&self.fd, name, flags, mode)?;
        nix::sys::stat::fchmod(&file, mode)?;
        write_all(&file, data)
    }

    /// The configuration that the container was created with.
    ///
    /// # Errors
    /// What opening or reading said.
    pub fn read_config(&self) -> Result<Vec<u8>> {
        path::read_own(&self.fd, CONFIG, FILE_LIMIT)
            .context(|| format!("read the configuration of container {}", self.id))
    }

    /// The recorded state; `None` while `create` has not written it.
    ///
    /// # Errors
    /// A file that is too large, torn or of another container (row G3).
    pub fn read_state(&self) -> Result<Option<State>> {
        let what = || format!("read the state of container {}", self.id);
        let json = match path::read_own(&self.fd, STATE, FILE_LIMIT) {
            Ok(json) => json,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        };
        State::parse(&json, self.id.as_str()).context(what).map(Some)
    }

    /// Removes the state directory and what skeg made in it. Anything else in it stays, and is named in the error.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(&self) -> Result<()> {
        let what = || format!("remove the state directory of container {}", self.id);
        for name in NAMES {
            path::remove_file(&self.fd, name).context(what)?;
        }
        // Looked for without a descriptor, of which there may be none left.
        if self.has(NOTIFY)
            && let Some(directory) = self.open_notify()?
        {
            path::remove_file(&directory, NOTIFY_SOCKET).context(what)?;
            path::remove_dir(&self.fd, NOTIFY).context(what)?;
        }
        match path::remove_dir(&self.root, self.id.as_str()) {
            Err(Errno::ENOTEMPTY) => {
                Err(Error::new(format!("{}: it holds files that skeg did not make", what())))
            }
            other => other.context(what),
        }
    }
}

impl AsFd for ContainerDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
