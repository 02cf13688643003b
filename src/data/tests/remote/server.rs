//! An HTTP server on a socket of this machine, which answers as a test says.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// What is answered: what goes over the wire, and what comes then.
pub(super) struct Answer {
    pub(super) wire: Vec<u8>,
    pub(super) then: Then,
}

/// What the server does after an answer.
pub(super) enum Then {
    /// It hangs up.
    Close,
    /// It is silent for a while.
    Wait(Duration),
    /// It sends a byte now and then, until the client hangs up.
    Trickle,
}

impl Answer {
    pub(super) fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        Self { wire: [head.as_bytes(), body].concat(), then: Then::Close }
    }

    pub(super) fn raw(wire: &[u8], then: Then) -> Self {
        Self { wire: wire.to_vec(), then }
    }

    pub(super) fn ok(headers: &str, body: impl AsRef<[u8]>) -> Self {
        Self::new("200 OK", headers, body.as_ref())
    }
}

/// An HTTP server that keeps what it was asked.
pub(super) struct Server {
    pub(super) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&requests), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                thread::spawn(move || serve(stream.unwrap(), &kept, answer.as_ref()));
            }
        });
        Self { port, requests }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines();
    let Some(Ok(first)) = lines.next() else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let headers: HashMap<String, String> = lines
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let request = Request { method, target, headers, body };
    kept.lock().unwrap().push(request.clone());
    let Answer { wire, then } = answer(&request);
    // A client that hangs up is what some tests are about.
    let _ = stream.write_all(&wire);
    match then {
        Then::Close => {}
        Then::Wait(time) => thread::sleep(time),
        Then::Trickle => {
            while stream.write_all(b"1").and_then(|()| stream.flush()).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
