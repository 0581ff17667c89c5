//! What the runtime decided, as bytes behind the program: written once before the clone, read once by
//! [`crate::become_process`].
//!
//! Numbers are of this machine's byte order; a text is its length, its bytes and a NUL, so that it can be handed to the
//! kernel where it lies.

use core::ffi::CStr;

use alloc::vec::Vec;

use crate::sys::Fd;

/// The first byte.
const TASK: u8 = b'i';

/// The two FIFOs of a created container; the runtime's `gate.rs` tells their story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// A byte comes here from `start`.
    pub start: Fd,
    /// `start` reads here what became of execve.
    pub started: Fd,
}

/// A hook of config.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook<'a> {
    /// The file, an absolute path.
    pub path: &'a CStr,
    /// argv.
    pub args: Vec<&'a CStr>,
    /// The whole environment.
    pub env: Vec<&'a CStr>,
    /// Seconds, from 1 on.
    pub timeout: Option<u64>,
}

/// A compiled seccomp profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter<'a> {
    /// `sock_filter` structures.
    pub program: &'a [u8],
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
    /// Whether it has a listener, whose descriptor is to be handed on.
    pub notifies: bool,
}

/// A memory policy (set_mempolicy(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy<'a> {
    /// Mode and flags.
    pub mode: i32,
    /// Nodes, 64 an element.
    pub nodes: Vec<u64>,
    /// What an error says of it.
    pub what: &'a CStr,
}

/// A resource limit (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit<'a> {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft.
    pub soft: u64,
    /// Hard.
    pub hard: u64,
    /// What an error says of it.
    pub what: &'a CStr,
}

/// The five capability sets, a bit for each number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What a file or an ambient set can still give.
    pub bounding: u64,
    /// What the kernel checks.
    pub effective: u64,
    /// What survives an execve of a file that has it inheritable too.
    pub inheritable: u64,
    /// What the effective set may be raised to.
    pub permitted: u64,
    /// What an unprivileged program keeps across execve.
    pub ambient: u64,
}

/// All that the process is to do, from its first call to execve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instructions<'a> {
    /// The socket to the runtime.
    pub channel: Fd,
    /// Where to wait for `start`; none for `run` and `exec`.
    pub gate: Option<Gate>,
    /// The root of a procfs of the runtime's namespaces, where a label is to be written.
    pub procfs: Option<Fd>,
    /// How many descriptors from 3 on the program gets.
    pub handed_on: u32,
    /// How many of them are sockets that it is told of (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// The runtime has been told that this process is ready, ahead of what is left: nothing more is asked of it.
    pub said_ready: bool,
    /// A second process is to go on: the one that is in the PID namespace that was joined.
    pub fork: bool,
    /// Standard input is the container's terminal.
    pub terminal: bool,
    /// A session keyring of its own.
    pub new_keyring: bool,
    /// Set no_new_privs.
    pub no_new_privs: bool,
    /// What is written for AppArmor (`exec PROFILE`).
    pub apparmor: Option<&'a CStr>,
    /// The SELinux label.
    pub selinux: Option<&'a CStr>,
    /// A `struct sched_attr` of 48 bytes; empty for none.
    pub scheduler: &'a [u8],
    /// Class and level for ioprio_set(2).
    pub io_priority: Option<u32>,
    /// For personality(2).
    pub personality: u32,
    /// For set_mempolicy(2).
    pub memory_policy: Option<MemoryPolicy<'a>>,
    /// The seccomp filter.
    pub filter: Option<Filter<'a>>,
    /// The working directory.
    pub cwd: &'a CStr,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The umask.
    pub umask: u32,
    /// Resource limits.
    pub limits: Vec<Limit<'a>>,
    /// startContainer hooks.
    pub hooks: Vec<Hook<'a>>,
    /// The state for them, up to the number of the process and behind it.
    pub state: [&'a [u8]; 2],
    /// The program's name and its arguments.
    pub args: Vec<&'a CStr>,
    /// Its environment.
    pub env: Vec<&'a CStr>,
}

impl<'a> Instructions<'a> {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer(Vec::with_capacity(8192));
        to.0.push(TASK);
        to.fd(self.channel);
        to.option(self.gate.as_ref(), |to, gate| {
            to.fd(gate.start);
            to.fd(gate.started);
        });
        to.option(self.procfs.as_ref(), |to, fd| to.fd(*fd));
        to.u32(self.handed_on);
        to.u32(self.listen_fds);
        for flag in [self.said_ready, self.fork, self.terminal, self.new_keyring, self.no_new_privs] {
            to.flag(flag);
        }
        to.option(self.apparmor.as_ref(), |to, text| to.text(text));
        to.option(self.selinux.as_ref(), |to, text| to.text(text));
        to.bytes(self.scheduler);
        to.option(self.io_priority.as_ref(), |to, value| to.u32(*value));
        to.u32(self.personality);
        to.option(self.memory_policy.as_ref(), |to, policy| {
            to.u32(policy.mode.cast_unsigned());
            to.list(&policy.nodes, |to, nodes| to.u64(*nodes));
            to.text(policy.what);
        });
        to.option(self.filter.as_ref(), |to, filter| {
            to.bytes(filter.program);
            to.u64(filter.flags);
            to.flag(filter.notifies);
        });
        to.text(self.cwd);
        let Capabilities { bounding, effective, inheritable, permitted, ambient } = self.capabilities;
        for set in [bounding, effective, inheritable, permitted, ambient] {
            to.u64(set);
        }
        to.u32(self.uid);
        to.u32(self.gid);
        to.list(&self.groups, |to, group| to.u32(*group));
        to.u32(self.umask);
        to.list(&self.limits, |to, limit| {
            to.u32(limit.resource);
            to.u64(limit.soft);
            to.u64(limit.hard);
            to.text(limit.what);
        });
        to.list(&self.hooks, |to, hook| {
            to.text(hook.path);
            to.texts(&hook.args);
            to.texts(&hook.env);
            to.option(hook.timeout.as_ref(), |to, seconds| to.u64(*seconds));
        });
        to.bytes(self.state[0]);
        to.bytes(self.state[1]);
        to.texts(&self.args);
        to.texts(&self.env);
        to.0
    }

    /// What [`Self::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        from.take(1).filter(|task| task == &[TASK])?;
        let all = Self {
            channel: from.fd()?,
            gate: from.option(|from| Some(Gate { start: from.fd()?, started: from.fd()? }))?,
            procfs: from.option(Reader::fd)?,
            handed_on: from.u32()?,
            listen_fds: from.u32()?,
            said_ready: from.flag()?,
            fork: from.flag()?,
            terminal: from.flag()?,
            new_keyring: from.flag()?,
            no_new_privs: from.flag()?,
            apparmor: from.option(Reader::text)?,
            selinux: from.option(Reader::text)?,
            scheduler: from.bytes()?,
            io_priority: from.option(Reader::u32)?,
            personality: from.u32()?,
            memory_policy: from.option(|from| {
                Some(MemoryPolicy {
                    mode: from.u32()?.cast_signed(),
                    nodes: from.list(Reader::u64)?,
                    what: from.text()?,
                })
            })?,
            filter: from.option(|from| {
                Some(Filter { program: from.bytes()?, flags: from.u64()?, notifies: from.flag()? })
            })?,
            cwd: from.text()?,
            capabilities: Capabilities {
                bounding: from.u64()?,
                effective: from.u64()?,
                inheritable: from.u64()?,
                permitted: from.u64()?,
                ambient: from.u64()?,
            },
            uid: from.u32()?,
            gid: from.u32()?,
            groups: from.list(Reader::u32)?,
            umask: from.u32()?,
            limits: from.list(|from| {
                Some(Limit {
                    resource: from.u32()?,
                    soft: from.u64()?,
                    hard: from.u64()?,
                    what: from.text()?,
                })
            })?,
            hooks: from.list(|from| {
                Some(Hook {
                    path: from.text()?,
                    args: from.list(Reader::text)?,
                    env: from.list(Reader::text)?,
                    timeout: from.option(Reader::u64)?,
                })
            })?,
            state: [from.bytes()?, from.bytes()?],
            args: from.list(Reader::text)?,
            env: from.list(Reader::text)?,
        };
        from.0.is_empty().then_some(all)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn fd(&mut self, fd: Fd) {
        self.u32(fd.cast_unsigned());
    }

    fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    /// A count. What is written is in memory, and config.json is limited to far less than 4 GiB.
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &CStr) {
        self.bytes(text.to_bytes_with_nul());
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.count(values.len());
        for value in values {
            write(self, value);
        }
    }

    fn texts(&mut self, texts: &[&CStr]) {
        self.list(texts, |to, text| to.text(text));
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    fn fd(&mut self) -> Option<Fd> {
        self.u32().map(u32::cast_signed)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    fn text(&mut self) -> Option<&'a CStr> {
        CStr::from_bytes_with_nul(self.bytes()?).ok()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.count()?;
        // No element is shorter than a byte, so that a wrong count cannot ask for more memory than there are bytes.
        let mut values = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            values.push(read(self)?);
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Instructions<'static> {
        Instructions {
            channel: 7,
            gate: Some(Gate { start: 8, started: 9 }),
            procfs: Some(10),
            handed_on: 2,
            listen_fds: 1,
            said_ready: true,
            fork: true,
            terminal: true,
            new_keyring: true,
            no_new_privs: true,
            apparmor: Some(c"exec docker-default"),
            selinux: Some(c"system_u:system_r:container_t:s0"),
            scheduler: &[1; 48],
            io_priority: Some(0x4001),
            personality: 8,
            memory_policy: Some(MemoryPolicy { mode: -2, nodes: alloc::vec![1, 2], what: c"set it" }),
            filter: Some(Filter { program: &[6; 16], flags: 5, notifies: true }),
            cwd: c"/srv",
            capabilities: Capabilities {
                bounding: u64::MAX,
                effective: 1,
                inheritable: 2,
                permitted: 3,
                ambient: 4,
            },
            uid: 1000,
            gid: 100,
            groups: alloc::vec![5, 6],
            umask: 0o22,
            limits: alloc::vec![Limit { resource: 7, soft: 1, hard: 2, what: c"limit" }],
            hooks: alloc::vec![Hook {
                path: c"/h",
                args: alloc::vec![c"h"],
                env: Vec::new(),
                timeout: Some(3)
            }],
            state: [b"{\"pid\":", b"}"],
            args: alloc::vec![c"sh", c""],
            env: alloc::vec![c"A=1"],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let all = everything();
        assert_eq!(Instructions::decode(&all.encode()), Some(all));
        let none = Instructions::default();
        assert_eq!(Instructions::decode(&none.encode()), Some(none));
    }

    /// Any other bytes are refused, in bounded memory: a container can execute the program by itself.
    #[test]
    fn anything_else_is_refused() {
        let bytes = everything().encode();
        for length in 0..bytes.len() {
            assert_eq!(Instructions::decode(&bytes[..length]), None, "{length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Instructions::decode(&longer), None);
        let many = [bytes.as_slice(), &[0xff; 64]].concat();
        assert_eq!(Instructions::decode(&many[many.len() - 64..]), None);
    }
}
