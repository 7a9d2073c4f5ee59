//! Longest-prefix match for IPv4, persistent: a change copies a few nodes.
