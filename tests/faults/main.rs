//! Faults, over real sockets and with real worker processes: what is promised under each is asserted on the orchestrator's
//! own count. `docs/guarantees.md` has the table.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod ends;
mod fleet;
mod hangs;
mod kills;
mod network;
mod orchestrators;
mod proxy;
mod replies;
mod resources;
mod runners;
mod table;
mod time;
