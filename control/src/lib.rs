//! The control plane.
//!
//! [`engine`] owns every protocol machine and the tables' publisher. Nothing outside [`host`] touches a
//! socket, a clock or a thread.

#![forbid(unsafe_code)]

pub mod time;
