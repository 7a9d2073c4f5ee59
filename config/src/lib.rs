//! The configuration: what it means ([`model`]), how it is read and what is wrong with it.

#![forbid(unsafe_code)]

pub mod model;

pub use model::*;
