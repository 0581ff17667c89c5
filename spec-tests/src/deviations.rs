//! Where a runtime is known not to do what a case asks, and why. A failure listed here counts as skipped; a case
//! listed here that passes is pointed out, so that the list cannot rot.

/// (the first word of the runtime's `--version`, the case, the reason)
#[rustfmt::skip]
const KNOWN: &[(&str, &str, &str)] = &[
    ("runc", "kill_by_real_time_name", "runc 1.1 knows real-time signals by number only"),
    ("runc", "create_race", "runc 1.1 takes no lock on the id: several creates of one id succeed"),
    ("runc", "start_race", "runc 1.1 lets a second start hang on the opened FIFO"),
    ("runc", "process_rlimits_twice", "runc 1.1 applies the last of duplicated rlimits"),
    ("runc", "process_oom_score_adj_range", "runc 1.1 reports the failing write in two lines"),
    ("runc", "process_personality", "runc knows the field since 1.2"),
    ("runc", "process_io_priority", "runc knows the field since 1.2"),
    ("runc", "process_scheduler", "runc knows the field since 1.2"),
    ("runc", "e15_modes_of_own_files", "runc 1.1 makes exec.fifo with mode 0622, in a directory of mode 0711"),
    ("runc", "e2_unknown_and_ungrantable", "runc 1.1 fails on a capability that its caller lacks"),
    ("runc", "e17_signals", "runc 1.1 hands blocked signals on to the process"),
    ("runc", "e18_personality", "runc 1.1 hands ADDR_NO_RANDOMIZE on to the process"),
    ("runc", "e3_user_numbers", "runc 1.1 takes ids up to 2^31-1 only"),
    ("runc", "configured_device_twice", "runc 1.1 keeps the file that is at the device's path"),
    ("runc", "propagation_unbindable", "runc 1.1 makes the mount unbindable before it binds the rootfs"),
    ("runc", "a14_without_a_mount_namespace", "runc 1.1 makes the host's mounts private (mended in 1.5.3)"),
    ("runc", "domainname", "runc knows the field since 1.2"),
    ("runc", "mount_label_without_selinux", "runc hands the label to a kernel that has no use for it, which refuses the mount"),
    ("runc", "b6_sysctl_of_the_host_by_path", "runc 1.1 does not compare a joined ipc namespace with the host's"),
    ("runc", "f8_namespace_path", "runc 1.1 blocks on a FIFO as the path of a namespace"),
    ("runc", "nested", "Debian's runc is a dynamic program, which a root file system without libraries cannot run"),
    ("runc", "update_every_resource", "runc 1.1 update leaves swappiness, burst, idle, throttling, huge pages and v2 of a hybrid host"),
    ("runc", "resources_invalid", "runc 1.1 prints a warning beside the error"),
    ("runc", "hooks_order", "runc 1.1 calls poststart hooks at the end of create"),
    ("runc", "hooks_state", "runc 1.1 calls poststart hooks in create, with the status created"),
    ("runc", "hooks_failing_start", "runc 1.1 does not learn of a startContainer hook that failed"),
    ("runc", "hooks_failing_after", "runc 1.1 stops at the first poststop hook that fails"),
    ("runc", "h1_environment", "runc 1.1 gives hooks without env its own environment, and createContainer the rootfs"),
    ("runc", "h3_timeout", "runc 1.1 kills the hook but not its children, and waits for their end"),
    ("runc", "h4_descriptors", "runc 1.1 lets createContainer hooks inherit its descriptors"),
    ("runc", "c7_parity", "runc 1.1 does not apply the umask to exec processes"),
    ("runc", "e3_exec_user", "runc 1.1 wraps a user number above 2^32 round to 0"),
    ("runc", "d10_preserve_fds_gap", "runc 1.1 hands on what happens to be open, its own descriptors included"),
    ("runc", "d10_listen_fds", "runc 1.1 panics"),
    ("runc", "g10_pid_file_symlink", "runc 1.1 leaves the pid file's mode to the caller's umask"),
    ("runc", "d3_stdio_owner", "runc 1.1 gives a regular file that is standard output to the container's user"),
    ("runc", "a2_hostile_mountpoints", "runc 1.1 has CVE-2026-41579: links of /dev are made through a symlink"),
    ("runc", "a3_dev_symlink", "runc 1.1 has CVE-2026-41579: links of /dev are made through a symlink"),
    ("runc", "a15_option_injection", "runc 1.1 joins mount options with commas"),
    ("runc", "a16_planted_in_state", "runc 1.1 removes its state directory recursively, across mounts"),
    ("runc", "c9_hostile_passwd", "runc 1.1 reads /etc/passwd of the image, whatever it is"),
    ("runc", "b3_dev_null", "runc 1.1 reopens stdio on a plain file that the image has at /dev/null (row D3)"),
    ("runc", "seccomp_flags", "runc knows the field since 1.2"),
    ("runc", "e11_new_calls", "runc 1.1 adds its ENOSYS rule only to profiles that list architectures"),
    ("runc", "g2_foreign_state_root", "runc 1.1 does not look at the owner and mode of an existing state root"),
    ("runc", "g3_state_tampered", "runc 1.1 panics on state that is null"),
    ("runc", "g5_hostile_config", "runc 1.1 panics on a config.json that is null"),
    ("runc", "g5_nul_in_strings", "runc 1.1 accepts NUL in some strings"),
    ("runc", "t7_no_paths_into_rootfs", "runc 1.1 addresses the rootfs by path and mounts by path"),
    ("runc", "t7_opens_are_confined", "runc 1.1 opens files of the rootfs by path"),
    ("runc", "t7_cloexec", "runc 1.1 hands descriptors to its second stage without close-on-exec"),
    ("runc", "t7_proc_writes", "runc 1.1 writes sysctls through the container's /proc by path"),
    ("runc", "a7_sources_opened_once", "runc 1.1 looks at a mount's source several times"),
    ("runc", "c16_environment_ignored", "Debian's runc is linked dynamically"),
    ("runc", "g1_before_any_access", "runc 1.1 looks at the state root before the id"),
    ("runc", "exec_rlimits", "runc built with Go 1.19: Go raises the soft limit of open files by itself, at times"),
    ("runc", "a1_rename_race", "runc 1.1 has CVE-2024-45310: a missing mount point is made through a symlink"),
    ("runc", "mount_option_names", "runc 1.1 hands the option defaults to the file system, which refuses it"),
    ("runc", "invalid_values", "runc 1.1 does not look at ociVersion, nor at most of the other rows"),
    ("runc", "idmapped_mount", "runc knows uidMappings of mounts since 1.2"),
    ("runc", "net_device", "runc knows the field since 1.4"),
    ("runc", "net_device_name_taken", "runc knows the field since 1.4"),
    ("runc", "unified_keys", "runc 1.1 refuses unified where there is a cgroup v1 hierarchy too"),
    ("runc", "check_before_update", "runc 1.1 prints a warning beside the error"),
    ("runc", "intel_rdt_without_resctrl", "runc 1.1 goes on where resctrl is not mounted"),
    ("runc", "features_hold", "runc 1.1 announces the option defaults, which it hands to the file system"),
    ("runc", "hooks_failing_poststart", "runc 1.1 calls poststart hooks at the end of create, whose failure they are"),
    ("runc", "a11_no_resolver_but_openat2", "runc 1.1 resolves paths by itself where there is no openat2"),
    ("runc", "b9_procfs_of_a_joined_namespace", "runc 1.1 needs the image's /proc to close descriptors"),
    ("runc", "e8_where_the_filter_is_loaded", "runc 1.1 sets the capabilities in a thread that strace shows as another"),
    ("runc", "e8_minimal_profile", "runc 1.1 makes calls of its own and of Go under the filter"),
    ("runc", "g15_the_bundle_is_opened_once", "runc 1.1 addresses the bundle and all in it by path"),
    ("runc", "h8_no_variable_changes_anything", "runc 1.1 takes _LIBCONTAINER_INITPIPE of its caller for its own"),
    ("runc", "g4_configuration_is_read_once", "runc 1.1 reads config.json of the bundle anew for exec"),
    ("runc", "e9_securebits", "runc 1.1 hands its caller's securebits on to the process"),
    ("runc", "c2_mappings_of_created", "Debian's runc is linked dynamically: pages of the host's libraries are mapped"),
    ("runc", "c4_paused_exec", "runc 1.1 has its caller's environment, and its own executable, in a process that is seen inside"),
    ("runc", "full_terminal", "runc 1.1 needs a terminal of its caller's for one of the container's"),
    ("runc", "f10_deep_cgroups", "runc 1.1 removes cgroups by path, and leaves those that no path is long enough for"),
    ("runc", "a18_links_of_joint_hierarchies", "runc 1.1 makes them by path, in the container's tmpfs"),
    ("runc", "seccomp_denies_execve", "runc 1.1 finds the cgroup of the killed process busy and says so in more lines"),
    ("runc", "exhausted_memory", "runc 1.1, killed for want of memory, leaves cgroups that its delete does not know of"),
    ("runc", "exhausted_processes", "runc 1.1 aborts with the stack of its threads where it may have no more of them"),
    ("runc", "a1_a2_exchange_at_every_call", "runc 1.1 has CVE-2024-45310 and its kin: paths are resolved again by name"),
];

/// The reason why this runtime is known to fail this case.
pub fn reason(kind: &str, case: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(runtime, name, _)| *runtime == kind && *name == case).map(|(_, _, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deviation_names_a_case() {
        for (_, name, reason) in KNOWN {
            assert!(crate::cases::all().any(|case| case.name == *name), "no case {name}");
            assert!(reason.len() > 10, "{name}: a reason is a sentence");
        }
    }
}
