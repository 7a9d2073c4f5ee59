//! Batches of packets and what is known of each.
