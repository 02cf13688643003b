//! Builds everything, then starts everything.
