//! SIGINT and SIGTERM, one after the other.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// The wishes of the outside that the program should end.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over; from here on they end nothing by themselves.
    ///
    /// # Errors
    /// When the system does not allow that.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|source| Failure::System { doing: "listen for signals", source });
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one and answers its name. May be dropped and called again.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
