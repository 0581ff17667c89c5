//! What a process is given before execve: limits, groups, ids, cwd, environment.
