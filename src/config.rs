//! Raw strings to one checked configuration.
