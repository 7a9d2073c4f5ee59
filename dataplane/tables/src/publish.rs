//! RCU by quiescent states: how snapshots reach workers.
