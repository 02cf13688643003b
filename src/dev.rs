//! A development orchestrator in memory, for `orchestrator`, `demo` and the tests.
