//! Sentences of runtime.md and runtime-linux.md.

use super::By::Cases;
use super::{Row, row};

/// runtime.md.
#[rustfmt::skip]
pub const RUNTIME: &[Row] = &[
    row("runtimeScopeContainer", "The entity using a runtime to create a", Cases(&["table_of_created", "table_of_running", "table_of_stopped"])),
    row("runtimeState", "ociVersion (string, REQUIRED) is version of the Open", Cases(&["state_fields"])),
    row("runtimeState", "id (string, REQUIRED) is the container's ID", Cases(&["state_fields"])),
    row("runtimeState", "This MUST be unique across all containers on", Cases(&["create_twice", "create_race"])),
    row("runtimeState", "status (string, REQUIRED) is the runtime state of", Cases(&["state_fields", "state_of_created"])),
    row("runtimeState", "Additional values MAY be defined by the runtime", Cases(&["pause_and_resume", "table_of_paused"])),
    row("runtimeState", "pid (int, REQUIRED when status is created or", Cases(&["state_fields"])),
    row("runtimeState", "bundle (string, REQUIRED) is the absolute path to", Cases(&["state_fields"])),
    row("runtimeState", "When serialized in JSON, the format MUST adhere", Cases(&["state_fields"])),
    row("runtimeLifecycle", "The container's runtime environment MUST be created according", Cases(&["namespaces_new", "mounts_in_order", "cgroups_path", "hostname"])),
    row("runtimeLifecycle", "If the runtime is unable to create the", Cases(&["create_failure_leaves_nothing", "invalid_values"])),
    row("runtimeLifecycle", "While the resources requested in the config.json MUST", Cases(&["create_does_not_run_the_program"])),
    row("runtimeLifecycle", "Any updates to config.json after this step MUST", Cases(&["g4_configuration_is_read_once"])),
    row("runtimeLifecycle", "The prestart hooks MUST be invoked by the", Cases(&["hooks_order"])),
    row("runtimeLifecycle", "If any prestart hook fails, the runtime MUST", Cases(&["hooks_failing_before"])),
    row("runtimeLifecycle", "The createRuntime hooks MUST be invoked by the", Cases(&["hooks_order"])),
    row("runtimeLifecycle", "If any createRuntime hook fails, the runtime MUST", Cases(&["hooks_failing_before"])),
    row("runtimeLifecycle", "The createContainer hooks MUST be invoked by the", Cases(&["hooks_order"])),
    row("runtimeLifecycle", "If any createContainer hook fails, the runtime MUST", Cases(&["hooks_failing_before"])),
    row("runtimeLifecycle", "The startContainer hooks MUST be invoked by the", Cases(&["hooks_order"])),
    row("runtimeLifecycle", "If any startContainer hook fails, the runtime MUST", Cases(&["hooks_failing_start"])),
    row("runtimeLifecycle", "The runtime MUST run the user-specified program, as", Cases(&["start_runs_the_program"])),
    row("runtimeLifecycle", "The poststart hooks MUST be invoked by the", Cases(&["hooks_order"])),
    row("runtimeLifecycle", "If any poststart hook fails, the runtime MUST generate an error", Cases(&["hooks_failing_poststart"])),
    row("runtimeLifecycle", "The container MUST be destroyed by undoing the", Cases(&["delete_undoes_create"])),
    row("runtimeLifecycle", "The poststop hooks MUST be invoked by the", Cases(&["hooks_order", "hooks_poststop_without_start"])),
    row("runtimeLifecycle", "If any poststop hook fails, the runtime MUST", Cases(&["hooks_failing_after"])),
    row("runtimeErrors", "Unless otherwise stated, generating an error MUST leave", Cases(&["create_failure_leaves_nothing", "start_twice", "create_twice", "f11_tiny_memory_limit"])),
    row("runtimeWarnings", "Unless otherwise stated, logging a warning does not", Cases(&["capabilities_warned_of", "hooks_failing_after"])),
    row("runtimeOperations", "Unless otherwise stated, runtimes MUST support the following", Cases(&["table_of_created", "table_of_running", "table_of_paused", "table_of_stopped", "table_of_missing"])),
    row("runtimeQueryState", "This operation MUST generate an error if it", Cases(&["operations_without_id"])),
    row("runtimeQueryState", "Attempting to query a container that does not", Cases(&["state_of_missing"])),
    row("runtimeQueryState", "This operation MUST return the state of a", Cases(&["state_fields"])),
    row("runtimeCreate", "This operation MUST generate an error if it", Cases(&["operations_without_id", "create_without_id", "bundle_missing"])),
    row("runtimeCreate", "If the ID provided is not unique across", Cases(&["create_twice", "g1_ids"])),
    row("runtimeCreate", "This operation MUST create a new container", Cases(&["state_of_created"])),
    row("runtimeCreate", "All of the properties configured in config.json except", Cases(&["c7_parity", "mounts_in_order", "cgroups_path", "namespaces_new"])),
    row("runtimeCreate", "process.args MUST NOT be applied until triggered by", Cases(&["create_does_not_run_the_program"])),
    row("runtimeCreate", "If the runtime cannot apply a property as", Cases(&["create_failure_leaves_nothing", "resources_invalid", "invalid_values"])),
    row("runtimeStart", "This operation MUST generate an error if it", Cases(&["operations_without_id"])),
    row("runtimeStart", "Attempting to start a container that is not", Cases(&["start_twice", "start_of_stopped", "table_of_paused"])),
    row("runtimeStart", "This operation MUST run the user-specified program as", Cases(&["start_runs_the_program", "process_args"])),
    row("runtimeStart", "This operation MUST generate an error if process", Cases(&["start_without_process"])),
    row("runtimeKill", "This operation MUST generate an error if it", Cases(&["operations_without_id"])),
    row("runtimeKill", "Attempting to send a signal to a container", Cases(&["kill_of_stopped", "table_of_missing"])),
    row("runtimeKill", "This operation MUST send the specified signal to", Cases(&["kill_sends_signals", "kill_of_created"])),
    row("runtimeDelete", "This operation MUST generate an error if it", Cases(&["operations_without_id"])),
    row("runtimeDelete", "Attempting to delete a container that is not", Cases(&["delete_of_running"])),
    row("runtimeDelete", "Deleting a container MUST delete the resources that", Cases(&["delete_undoes_create"])),
    row("runtimeDelete", "Note that resources associated with the container, but", Cases(&["delete_keeps_what_it_did_not_make", "f15_foreign_process", "a16_planted_in_state"])),
];

/// runtime-linux.md.
#[rustfmt::skip]
pub const RUNTIME_LINUX: &[Row] = &[
    row("runtimeLinuxDevSymbolicLinks", "While creating the container (step 2 in the", Cases(&["default_links"])),
];
