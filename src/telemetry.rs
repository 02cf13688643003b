//! Sight: metrics registry, series with an end, logs, and what the machine and the process use.
