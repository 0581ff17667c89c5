//! Real mounts as root: every case runs in a mount namespace of its own, on a tmpfs that stands for the host, with
//! canaries beside the bundle. Cases fork, so this binary is its own, single-threaded harness.
//!
//! `cargo test -p skeg --test rootfs [NAME]` runs the cases whose name contains NAME.

#![allow(clippy::disallowed_methods, reason = "test code looks at files by name, inside its own namespaces")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod devices;
mod hostile;
mod mounts;
mod namespaces;
mod support;

use std::fs;
use std::io::Write as _;

use nix::mount::{MsFlags, mount};
use skeg::sys::clone::{Cloned, clone_process, exit_now};

use crate::support::{CASE_LIMIT_MS, HOST, NEW_MOUNT, fresh_host, wait};

/// A case: its name, which has the row or section that it is for, and what it does.
type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("default_config_mounts_as_runc_does", mounts::default_config_mounts_as_runc_does),
    ("a1_a2_a3_a4_b3_d2_hostile_rootfs_never_reaches_the_host", hostile::hostile_matrix),
    ("a1_a2_swapped_component_never_reaches_the_host", hostile::swapped_component),
    ("a4_proc_and_sys_are_refused_on_anything_but_a_directory", hostile::proc_and_sys_on_links),
    ("a5_no_host_mount_is_left_below", hostile::no_host_mount_is_left_below),
    ("a6_nothing_is_mounted_into_proc", hostile::nothing_into_proc),
    ("a6_no_device_is_bound_into_proc", hostile::no_device_into_proc),
    ("a7_a12_sources_are_opened_once", hostile::sources_are_opened_once),
    ("a9_read_only_means_read_only", mounts::read_only_means_read_only),
    ("a10_nothing_is_made_in_a_read_only_source", mounts::nothing_made_in_read_only_source),
    ("a14_host_propagation_is_never_changed", namespaces::host_propagation),
    ("a15_one_option_is_one_parameter", mounts::one_option_is_one_parameter),
    ("a17_f1_cgroup_mounts_are_read_only_when_asked", mounts::cgroup_mounts),
    ("a19_tmpcopyup_copies_without_following", hostile::tmpcopyup),
    ("a20_id_mapped_bind", mounts::id_mapped_bind),
    ("b4_b5_masked_and_readonly_paths", devices::masked_and_readonly_paths),
    ("b3_b4_masks_do_not_change_the_hosts_null", devices::masks_of_files),
    ("b12_host_sys_in_a_user_namespace", namespaces::host_sys_in_user_namespace),
    ("d2_d11_console_and_devpts_are_the_containers_own", devices::console_and_devpts),
    ("d6_devices_are_what_was_asked_for", devices::devices_are_what_was_asked),
    ("bind_flags_follow_the_options", mounts::bind_flags),
    ("bind_of_files_and_links", mounts::bind_of_files_and_links),
    ("remount_changes_what_is_there", mounts::remount),
    ("mount_on_the_root", mounts::mount_on_the_root),
    ("overlay_layers", mounts::overlay_layers),
    ("without_mount_namespace", namespaces::without_mount_namespace),
    ("hooks_before_the_pivot_mount_by_path", namespaces::hooks_mount_by_path),
    ("joined_mount_namespace", namespaces::joined_mount_namespace),
    ("inside_a_user_namespace_devices_are_bound_and_locked_flags_stay", namespaces::inside_a_user_namespace),
    ("errors_name_the_mount_and_the_reason", mounts::errors_name_the_mount),
];

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut failed = 0;
    for (name, case) in CASES {
        if !filter.is_empty() && !filter.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let outcome = fork_case(*case);
        let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let verdict = match outcome {
            Ok(()) if before == after => "ok".to_owned(),
            Ok(()) => "FAILED: the machine's mounts changed".to_owned(),
            Err(text) => format!("FAILED: {text}"),
        };
        failed += usize::from(verdict != "ok");
        println!("test {name} ... {verdict}");
    }
    let _ = fs::remove_dir(HOST);
    assert_eq!(failed, 0, "cases failed");
}

/// Runs `case` in a process with a mount namespace of its own and a tmpfs on [`HOST`].
fn fork_case(case: fn()) -> std::result::Result<(), String> {
    std::io::stdout().flush().unwrap();
    match clone_process(NEW_MOUNT, None, false).unwrap() {
        Cloned::Child => {
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
            fs::create_dir_all(HOST).unwrap();
            mount(Some("host"), HOST, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            fresh_host();
            case();
            std::io::stdout().flush().unwrap();
            exit_now(0);
        }
        Cloned::Parent { pidfd, .. } => wait(&pidfd, CASE_LIMIT_MS),
    }
}
