//! The packet path: five stages on batches of packets.

#![forbid(unsafe_code)]
