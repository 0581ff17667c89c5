//! `skeg run`: create and start in one, without the gate in between.

use nix::sys::prctl;

use crate::cgroup::Cgroup;
use crate::cli::RunOptions;
use crate::console;
use crate::create::{self, Created, Global, Start};
use crate::delete;
use crate::error::{Context as _, Result};
use crate::foreground::Foreground;
use crate::gate;
use crate::log::Log;
use crate::notify_socket::Forwarder;
use crate::start::{EXECUTED, forward_until_ready, open_notify_socket, run_poststart_hooks};
use crate::state::Container;
use crate::sync::Message;

/// Creates and starts the container; in the foreground, waits for its end and removes it. Returns the exit status.
///
/// # Errors
/// What was being done, and why it failed; nothing is left behind.
pub fn run(global: &Global, options: &RunOptions, log: &mut Log) -> Result<i32> {
    if options.detach {
        let (created, forwarder) = start_one(global, options, Start::Now, |_| Ok(()), log)?;
        if let Some(forwarder) = forwarder {
            forward_until_ready(&forwarder, &created.init.pidfd, created.init.pid, log);
        }
        return Ok(0);
    }
    if !options.no_subreaper {
        prctl::set_child_subreaper(true).context(|| "adopt the orphans of the container")?;
    }
    let mut foreground = Foreground::new()?;
    let take_terminal = |created: &Created| take_terminal(created, &mut foreground);
    let (created, forwarder) = start_one(global, options, Start::InForeground, take_terminal, log)?;
    if let Some(forwarder) = forwarder {
        foreground.forward_notifications(forwarder);
    }
    let status = foreground.wait(&created.init.pidfd);
    let Created { dir, state, cgroup, .. } = created;
    let cgroup = cgroup.unwrap_or_else(|| Cgroup::open(&state.cgroup));
    let removed = if options.keep { Ok(()) } else { delete::destroy(Container { dir, state }, cgroup, log) };
    let status = status?;
    removed.map(|()| status)
}

/// Takes the terminal, and gives it its size, before the program may look at it.
fn take_terminal(created: &Created, foreground: &mut Foreground) -> Result<()> {
    match &created.terminal {
        Some(socket) => foreground.attach(console::receive_master(socket)?),
        None => Ok(()),
    }
}

/// Creates the container and lets its program start, after `before_execve`.
fn start_one(
    global: &Global,
    options: &RunOptions,
    start: Start,
    before_execve: impl FnOnce(&Created) -> Result<()>,
    log: &mut Log,
) -> Result<(Created, Option<Forwarder>)> {
    let mut created = create::prepare(global, &options.create, start, log)?;
    let start = || -> Result<Option<Forwarder>> {
        before_execve(&created)?;
        created.init.announce(options.create.pid_file.as_deref(), options.create.pidfd_socket.as_deref())?;
        gate::set_running(&created.dir)?;
        drop(created.lock.take());
        let forwarder = open_notify_socket(&created.dir, global.notify_socket.as_deref(), log);
        created.init.answer(&Message::Proceed)?;
        created.init.wait_for_execve()?;
        log.debug(|| EXECUTED);
        run_poststart_hooks(&created.state, log)?;
        Ok(forwarder)
    };
    match start() {
        Ok(forwarder) => Ok((created, forwarder)),
        Err(error) => {
            created.undo(log);
            Err(error)
        }
    }
}
