//! Header views for the packet path.
