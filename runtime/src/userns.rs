//! User namespaces: id maps and setgroups.
