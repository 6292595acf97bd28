//! The log in files: what it keeps, and how it reports files that were cut, damaged, filled up or replaced.

#![cfg(unix)]

mod damage;
mod faults;
mod keeping;
mod support;
mod syncing;
