//! Network devices of the host that the container gets (config-linux.md, netDevices).
//!
//! The kernel takes a device's addresses when it moves to another network namespace. Those that somebody set for good
//! and for the whole world come along; the others belong to the network that it leaves. What becomes of the device when
//! the container ends is the kernel's matter: a physical one goes to the initial namespace, a virtual one with its own.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNetDevice, Spec};

use crate::error::{Context as _, Error, Result};
use crate::namespaces::NETWORK;
use crate::sys::clone;
use crate::sys::netlink::{PERMANENT, Route};
use crate::sys::path::stat;
use crate::sys::procfs::Procfs;

/// At the end of a new name: the kernel's way to ask for the lowest number that is free.
pub const TEMPLATE: &str = "%d";

/// The devices of a configuration; `None` where there are none.
pub fn of(spec: &Spec) -> Option<&HashMap<String, LinuxNetDevice>> {
    spec.linux().as_ref()?.net_devices().as_ref().filter(|devices| !devices.is_empty())
}

/// Moves the devices into the network namespace of process `pid`, which is set up and waits.
///
/// # Errors
/// Which device could not be moved, and why.
pub fn give(devices: &HashMap<String, LinuxNetDevice>, pid: Pid) -> Result<()> {
    let what = || "/linux/netDevices: open the network namespace";
    let procfs = Procfs::processes()?;
    let ours = procfs.open_own_magic_link("ns/net", OFlag::O_RDONLY).context(what)?;
    let theirs = procfs.open_magic_link(pid, "ns/net", OFlag::O_RDONLY).context(what)?;
    let same = (stat(&ours).context(what)?, stat(&theirs).context(what)?);
    if (same.0.st_dev, same.0.st_ino) == (same.1.st_dev, same.1.st_ino) {
        return Err(Error::new("/linux/netDevices: the container has the runtime's own network namespace"));
    }
    let host = Route::open().context(what)?;
    let inside = open_inside(&ours, &theirs)?;
    // In a fixed order, so that templates give the same names each time. All are looked at before one is moved: a virtual
    // device ends with the network namespace of a container that could not be made.
    let mut moves = Vec::with_capacity(devices.len());
    for (name, device) in devices {
        let new_name = device.name().as_deref().filter(|new| !new.is_empty()).unwrap_or(name);
        moves.push((name, new_name, check(&host, &inside, name, new_name).map_err(|error| at(name, error))?));
    }
    moves.sort_by_key(|&(name, ..)| name);
    for (name, new_name, index) in moves {
        move_one(&host, &inside, &theirs, index, new_name).map_err(|error| at(name, error))?;
    }
    Ok(())
}

fn at(name: &str, error: Error) -> Error {
    error.context(format!("/linux/netDevices/{name}"))
}

/// Whether the device is there and its name is free in the container. Returns its index.
///
/// Asked before, since the kernel moves a device whose new name is taken and only then refuses the name.
fn check(host: &Route, inside: &Route, name: &str, new_name: &str) -> Result<i32> {
    let index = host.index_of(name).context(|| "look for the device")?;
    let index = index.ok_or_else(|| Error::new("there is no such network device on the host"))?;
    if inside.index_of(new_name).context(|| "look for the device in the container")?.is_some() {
        return Err(Error::new(format!("the container has a network device {new_name} already")));
    }
    Ok(index)
}

/// A socket in the container's network namespace, and this process back in its own.
fn open_inside(ours: &OwnedFd, theirs: &OwnedFd) -> Result<Route> {
    clone::join(theirs, NETWORK).context(|| "join the container's network namespace")?;
    let inside = Route::open();
    clone::join(ours, NETWORK).context(|| "return to the runtime's network namespace")?;
    inside.context(|| "open a netlink socket in the container's network namespace")
}

fn move_one(host: &Route, inside: &Route, namespace: &OwnedFd, index: i32, new_name: &str) -> Result<()> {
    let addresses = host.addresses(index).context(|| "read its addresses")?;
    let new_name = free_name(inside, new_name)?;
    host.move_device(index, namespace.as_fd(), &new_name)
        .context(|| format!("move it into the container as {new_name}"))?;
    // It may have another index there.
    let index = inside.index_of(&new_name).context(|| format!("look for {new_name} in the container"))?;
    let index = index.ok_or_else(|| Error::new(format!("{new_name} is not in the container")))?;
    for address in addresses.iter().filter(|address| address.flags & PERMANENT != 0 && address.scope == 0) {
        inside.add_address(index, address).context(|| "give it its address in the container")?;
    }
    inside.set_up(index).context(|| "set it up in the container")
}

/// The name itself, or for a template the one with the lowest number that is free.
fn free_name(inside: &Route, name: &str) -> Result<String> {
    let Some(prefix) = name.strip_suffix(TEMPLATE) else { return Ok(name.to_owned()) };
    /// As many as the kernel tries (`__dev_alloc_name`: one page of bits).
    const NUMBERS: u32 = 32_768;
    for number in 0..NUMBERS {
        let name = format!("{prefix}{number}");
        if inside.index_of(&name).context(|| format!("look for {name} in the container"))?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::new(format!("{name}: the container has no number left")))
}
