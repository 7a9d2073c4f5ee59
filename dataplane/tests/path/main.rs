//! The whole packet path over links in memory: boxes with LANs, back to back or over a switch, without DPDK.

mod drops;
mod garbage;
mod journeys;
mod lab;
mod multicast;
mod protected;
mod publication;
mod punts;
mod workers;
