//! The containerd shim of skeg: one process for a container or a pod, between containerd and an OCI runtime.
//!
//! Read in the order of ARCHITECTURE.md, "The shim".

mod args;
mod bootstrap;
mod config;
mod container;
mod error;
mod events;
mod log;
mod logger;
mod oom;
mod options;
mod path;
mod pod_files;
mod process;
mod reap;
mod record;
mod rootfs;
mod runtime;
mod sandbox;
mod server;
mod service;
mod stats;
mod stdio;
mod stream_uri;
mod sys;

// In a release build a fault in one request must not end the shim (security.md I15); tests are built to abort.
#[cfg(all(not(debug_assertions), panic = "abort"))]
compile_error!("the shim must unwind: build it with --profile release-shim");

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::task::LocalSet;

use crate::args::{Action, Args};
use crate::error::{Context as _, Error, Result};
use crate::events::Events;
use crate::reap::Signals;
use crate::service::Shim;

/// How long a shim without tasks and without clients stays: containerd connects within it.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long the last events may take when the shim ends: containerd may just be starting.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-skeg-v2: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words = std::env::args_os().skip(1).map(|word| {
        word.into_string().map_err(|word| Error::invalid(format!("argument {}: not UTF-8", word.display())))
    });
    let args = Args::parse(words.collect::<Result<Vec<_>>>()?.into_iter())?;
    match args.action {
        Action::Start => bootstrap::start(&args),
        Action::Delete => block_on(bootstrap::delete(&args)),
        Action::Info => block_on(bootstrap::info()),
        Action::Version => {
            println!("containerd-shim-skeg-v2:\n  Version: {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Serve => serve(&args),
        Action::Pause => sandbox::pause(),
    }
}

fn block_on(task: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    LocalSet::new().block_on(&runtime.context(|| "make an event loop")?, task)
}

/// Serves the task API on descriptor 3 until the last task is gone.
fn serve(args: &Args) -> Result<()> {
    let listener =
        sys::take_inherited(bootstrap::LISTENER).context(|| "the listening socket at descriptor 3")?;
    sys::mark_cloexec_from(3).context(|| "close_range")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let listener = UnixListener::from(listener);
    let socket = listener.local_addr().context(|| "getsockname")?;
    let socket = socket.as_pathname().map(Path::to_path_buf);
    let socket = socket.ok_or_else(|| Error::other("the listening socket has no path"))?;
    if let Ok(fifo) = path::open_fifo(Path::new("log"), OFlag::O_WRONLY) {
        log::open(fifo);
    }
    nix::sys::prctl::set_child_subreaper(true).context(|| "set_child_subreaper")?;
    yield_to_the_manager();
    let address = std::env::var(bootstrap::TTRPC_ADDRESS).ok();
    let events = Events::new(&args.namespace, address);
    let socket_dir = socket.parent().map(Path::to_path_buf).unwrap_or_default();
    let shim = Shim::new(&args.namespace, args.debug, socket_dir, events);
    block_on(live(shim, listener, socket))
}

/// One point more likely to be killed than containerd, so that the kernel takes a shim before its manager.
fn yield_to_the_manager() {
    let file = Path::new("/proc/self/oom_score_adj");
    let score =
        path::read(file, 64).ok().and_then(|text| String::from_utf8(text).ok()?.trim().parse::<i32>().ok());
    if let Some(score) = score.filter(|score| *score < 1000)
        && let Err(errno) = path::write_kernel_file(file, (score + 1).to_string().as_bytes())
    {
        log::warn(format_args!("set oom_score_adj: {errno}"));
    }
}

async fn live(shim: Rc<Shim>, listener: UnixListener, socket: PathBuf) -> Result<()> {
    let signals = Signals::take()?;
    listener.set_nonblocking(true).context(|| "listening socket")?;
    let listener = tokio::net::UnixListener::from_std(listener).context(|| "listening socket")?;
    let handler = {
        let shim = Rc::clone(&shim);
        move |call| Rc::clone(&shim).answer(call)
    };
    let server = server::serve(listener, Rc::clone(&shim.connections), handler);
    let events = Rc::clone(&shim.events).deliver();
    tokio::task::spawn_local(events);
    let server = tokio::task::spawn_local(server);
    tokio::select! {
        () = shim.quit.notified() => {}
        () = signals.serve(&shim.reaper) => {}
        () = idle(&shim) => {}
    }
    // Nobody finds it any more; answers that are on their way still go out.
    server.abort();
    if let (Some(dir), Some(name)) = (socket.parent(), socket.file_name().and_then(|name| name.to_str()))
        && let Ok(dir) = path::open_dir(dir)
    {
        let _ = path::remove_in(&dir, name);
    }
    tokio::task::yield_now().await;
    shim.connections.close();
    shim.events.flush(FLUSH_LIMIT).await;
    Ok(())
}

/// Returns once there has been neither task nor client for a while.
async fn idle(shim: &Shim) {
    loop {
        if !shim.is_empty() || shim.connections.open() > 0 {
            shim.connections.rung().await;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(IDLE_LIMIT) => return,
            () = shim.connections.rung() => {}
        }
    }
}
