//! ESP (RFC 4303): cipher suites, batched seal and open, replay window.

#![deny(unsafe_code)]
