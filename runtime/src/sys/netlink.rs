//! NETLINK_ROUTE (rtnetlink(7)): as much of it as moving a network device takes.
//!
//! Messages are made and read byte by byte, in the kernel's byte order, and every length is checked before it is used
//! (row F5). A socket belongs to the network namespace that it was made in, wherever its process goes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Types of messages (`linux/netlink.h`, `linux/rtnetlink.h`).
mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const NEW_LINK: u16 = 16;
    pub const GET_LINK: u16 = 18;
    pub const NEW_ADDRESS: u16 = 20;
    pub const GET_ADDRESS: u16 = 22;
}

/// Flags of messages (`linux/netlink.h`).
mod flag {
    pub const REQUEST: u16 = 0x001;
    pub const ACK: u16 = 0x004;
    pub const DUMP: u16 = 0x300;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
}

/// `IFLA_IFNAME` and `IFLA_NET_NS_FD` of `linux/if_link.h`.
const LINK_NAME: u16 = 3;
const LINK_NAMESPACE: u16 = 28;
/// `IFA_*` of `linux/if_addr.h`.
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;
const ADDRESS_FLAGS: u16 = 8;

/// `IFA_F_PERMANENT`: set by somebody, not by the network.
pub const PERMANENT: u32 = 0x80;
/// Flags that are part of how an address was set, not of its state: `IFA_F_NODAD`, `IFA_F_MANAGETEMPADDR`,
/// `IFA_F_NOPREFIXROUTE`.
const CHOSEN: u32 = 0x02 | 0x100 | 0x200;

const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
/// The kernel puts no more than 32 KiB into one part of a dump (netlink_dump in net/netlink/af_netlink.c).
const RECEIVE: usize = 32 << 10;

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    /// `RT_SCOPE_*`; 0 is the whole world.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
    /// `IFA_ADDRESS`, `IFA_LOCAL` and `IFA_BROADCAST` as they are.
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A socket.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
}

impl Route {
    /// A socket of the network namespace that this process is in.
    ///
    /// # Errors
    /// The errno of socket(2).
    pub fn open() -> nix::Result<Self> {
        /// The kernel answers at once; a lost answer must not be waited for.
        const TIMEOUT: TimeVal = TimeVal::new(10, 0);
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkRoute);
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TIMEOUT)?;
        Ok(Self { socket })
    }

    /// The index of the device of this name, if there is one.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn index_of(&self, name: &str) -> nix::Result<Option<i32>> {
        let mut request = Request::new(kind::GET_LINK, flag::ACK, &link_header(0, 0));
        request.name(name)?;
        let mut index = None;
        let found = self.exchange(request, &mut |kind, body| {
            if kind == kind::NEW_LINK {
                index = Some(number(body, 4).ok_or(Errno::EBADMSG)?.cast_signed());
            }
            Ok(())
        });
        match found {
            Err(Errno::ENODEV) => Ok(None),
            other => other.map(|()| index),
        }
    }

    /// The addresses of the device.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn addresses(&self, index: i32) -> nix::Result<Vec<Address>> {
        let mut all = Vec::new();
        let request = Request::new(kind::GET_ADDRESS, flag::DUMP, &[0; ADDRESS_HEADER]);
        self.exchange(request, &mut |kind, body| {
            if kind == kind::NEW_ADDRESS && number(body, 4) == Some(index.cast_unsigned()) {
                all.push(Address::read(body).ok_or(Errno::EBADMSG)?);
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Moves the device to another network namespace and gives it a name there, in one step.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken there, `EINVAL` for a device that cannot be moved, `EPERM`.
    pub fn move_device(&self, index: i32, namespace: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
        let mut request = Request::new(kind::NEW_LINK, flag::ACK, &link_header(index, 0));
        request.name(name)?;
        request.attribute(LINK_NAMESPACE, &namespace.as_raw_fd().to_ne_bytes())?;
        self.exchange(request, &mut |_, _| Ok(()))
    }

    /// Sets the device up.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_up(&self, index: i32) -> nix::Result<()> {
        let up = libc::IFF_UP.cast_unsigned();
        let request = Request::new(kind::NEW_LINK, flag::ACK, &link_header(index, up));
        self.exchange(request, &mut |_, _| Ok(()))
    }

    /// Gives the device an address.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn add_address(&self, index: i32, address: &Address) -> nix::Result<()> {
        // Flags go as an attribute, which has room for all of them.
        let mut header = vec![address.family, address.prefix, 0, address.scope];
        header.extend_from_slice(&index.to_ne_bytes());
        let mut request = Request::new(kind::NEW_ADDRESS, flag::ACK | flag::CREATE | flag::EXCL, &header);
        for (kind, value) in &address.attributes {
            request.attribute(*kind, value)?;
        }
        request.attribute(ADDRESS_FLAGS, &(address.flags & CHOSEN).to_ne_bytes())?;
        self.exchange(request, &mut |_, _| Ok(()))
    }

    /// Sends a request and gives each answer to `take`, by type and body, until the kernel says that it was the last.
    fn exchange(
        &self,
        request: Request,
        take: &mut dyn FnMut(u16, &[u8]) -> nix::Result<()>,
    ) -> nix::Result<()> {
        let bytes = request.finish()?;
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut rest = buffer.get(..length).ok_or(Errno::EMSGSIZE)?;
            while !rest.is_empty() {
                let (kind, body, next) = split_message(rest).ok_or(Errno::EBADMSG)?;
                rest = next;
                match kind {
                    kind::DONE => return Ok(()),
                    kind::ERROR => {
                        let code = number(body, 0).ok_or(Errno::EBADMSG)?.cast_signed();
                        return if code == 0 { Ok(()) } else { Err(Errno::from_raw(code.saturating_neg())) };
                    }
                    kind => take(kind, body)?,
                }
            }
        }
    }
}

impl AsFd for Route {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Address {
    /// Of the body of an `RTM_NEWADDR`.
    fn read(body: &[u8]) -> Option<Self> {
        let (&[family, prefix, flags, scope], _) = body.split_first_chunk()?;
        let mut address = Self { family, prefix, scope, flags: u32::from(flags), attributes: Vec::new() };
        let mut rest = body.get(ADDRESS_HEADER..)?;
        while !rest.is_empty() {
            let (kind, value, next) = split_attribute(rest)?;
            rest = next;
            match kind {
                ADDRESS_FLAGS => address.flags = number(value, 0)?,
                ADDRESS_ADDRESS | ADDRESS_LOCAL | ADDRESS_BROADCAST => {
                    address.attributes.push((kind, value.to_vec()));
                }
                _ => {}
            }
        }
        Some(address)
    }
}

/// `struct ifinfomsg` for a device, with `flags` to set.
fn link_header(index: i32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    // Which flags are meant: those that are set.
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// A message for the kernel.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        // The length comes last; the sequence number and the port are for those who ask several things at once.
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn name(&mut self, name: &str) -> nix::Result<()> {
        self.attribute(LINK_NAME, &[name.as_bytes(), &[0]].concat())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> nix::Result<()> {
        let length = u16::try_from(value.len() + 4).map_err(|_| Errno::EMSGSIZE)?;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        Ok(())
    }

    fn finish(mut self) -> nix::Result<Vec<u8>> {
        let length = u32::try_from(self.0.len()).map_err(|_| Errno::EMSGSIZE)?;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        Ok(self.0)
    }
}

/// The `u32` at `offset`.
fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn short(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

/// Type and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    Some((short(bytes, 4)?, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Type and value of the first attribute, and what follows it.
fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const TYPE_FLAGS: u16 = 0xc000;
    let length = usize::from(short(bytes, 0)?);
    let value = bytes.get(4..length)?;
    Some((short(bytes, 2)? & !TYPE_FLAGS, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md F5: a length that does not fit is an error, whichever way it is wrong.
    #[test]
    fn f5_lengths_are_checked() {
        let mut request = Request::new(kind::NEW_LINK, 0, &link_header(1, 0));
        assert_eq!(request.attribute(1, &[0; 65_533]), Err(Errno::EMSGSIZE));
        request.attribute(1, &[7; 5]).unwrap();
        let bytes = request.finish().unwrap();
        assert_eq!(number(&bytes, 0), Some(16 + 16 + 12));
        let (kind, body, rest) = split_message(&bytes).unwrap();
        assert_eq!((kind, rest), (kind::NEW_LINK, &[][..]));
        assert_eq!(split_attribute(&body[16..]).unwrap(), (1, &[7; 5][..], &[][..]));
        for length in [0_u32, 1, 15, 45, u32::MAX] {
            let mut wrong = bytes.clone();
            wrong[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(split_message(&wrong), None, "{length}");
        }
        for length in [0_u16, 3, 13, u16::MAX] {
            let wrong = [&length.to_ne_bytes()[..], &[1, 0], &[7; 8]].concat();
            assert_eq!(split_attribute(&wrong), None, "{length}");
        }
        assert_eq!(Address::read(&[2, 8, 0, 0, 1, 0, 0, 0, 255, 0, 1, 0]), None);
        assert_eq!(Address::read(&[2, 8, 0]), None);
    }

    #[test]
    fn the_loopback_device_is_found() {
        let route = Route::open().unwrap();
        let index = route.index_of("lo").unwrap().unwrap();
        assert_eq!(index, 1);
        assert_eq!(route.index_of("no-such-device").unwrap(), None);
        let local = [(ADDRESS_ADDRESS, vec![127, 0, 0, 1]), (ADDRESS_LOCAL, vec![127, 0, 0, 1])];
        let addresses = route.addresses(index).unwrap();
        assert!(addresses.iter().any(|address| address.attributes == local), "{addresses:?}");
    }
}
