//! `tmpcopyup`: a new tmpfs gets what the image has at its mount point.
