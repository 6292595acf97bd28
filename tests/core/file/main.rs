//! The log in files: what it keeps, and what it says of files that were cut, damaged, filled up or replaced.

#![cfg(unix)]

mod damage;
mod faults;
mod keeping;
mod support;
