//! The machine in simulated networks, against captured peers, and against those who mean ill.

mod net;
mod network;
mod peers;
mod threats;
