//! A wire with faults: a TCP proxy whose connections can be cut, held up, half closed or damaged.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::spawn;

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wire {
    /// Carries.
    Good,
    /// Carries each piece this much later.
    Slow(Duration),
    /// Takes what comes and carries nothing, as a partition does.
    Dead,
    /// Cuts what is connected, and each new connection at once.
    Cut,
    /// Closes the way back of each connection and leaves the way there open.
    HalfClosed,
    /// Begins each piece on the way back with bytes that are no frame of HTTP/2.
    Damaged,
}

/// The proxy.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    wire: watch::Sender<Wire>,
}

impl Proxy {
    /// Listens, and carries to `target`.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (wire, seen) = watch::channel(Wire::Good);
        spawn(async move {
            let mut carried = JoinSet::new();
            loop {
                let Ok((near, _)) = listener.accept().await else { return };
                carried.spawn(carry(near, target, seen.clone()));
                while carried.try_join_next().is_some() {}
            }
        });
        Self { address, wire }
    }

    /// From now on, connections that exist included.
    pub(crate) fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

async fn carry(near: TcpStream, target: SocketAddr, wire: watch::Receiver<Wire>) {
    if *wire.borrow() == Wire::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = wire.clone();
    tokio::select! {
        _ = cut.wait_for(|wire| *wire == Wire::Cut) => {}
        () = pump(near_read, far_write, wire.clone(), Way::There) => {}
        () = pump(far_read, near_write, wire, Way::Back) => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    There,
    Back,
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wire: watch::Receiver<Wire>, way: Way) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let piece = &mut buffer[..length];
        let now = *wire.borrow_and_update();
        match now {
            Wire::Good | Wire::Cut => {}
            Wire::Slow(delay) => tokio::time::sleep(delay).await,
            // What was swallowed never comes: the connection is of no use any more, and nobody is told.
            Wire::Dead => return std::future::pending().await,
            Wire::HalfClosed if way == Way::Back => {
                let _ = to.shutdown().await;
                return std::future::pending().await;
            }
            Wire::Damaged if way == Way::Back => piece[..length.min(9)].fill(0xff),
            Wire::HalfClosed | Wire::Damaged => {}
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
