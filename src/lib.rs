//! The part of the daemon that makes ports and worker threads of a configuration; the performance harness runs the same.

#![forbid(unsafe_code)]

pub mod devices;
mod heap;
pub mod workers;
