//! The live page: its files and policy, its events, and who may cancel and drain.

use std::io::{BufRead as _, BufReader};

use super::*;
use crate::guard;

/// One event: its kind and its data.
type Event = (String, Value);

/// Follows the events until `enough` says so.
async fn follow(running: &Running, enough: impl Fn(&[Event]) -> bool + Send + 'static) -> Vec<Event> {
    let address = running.address;
    let followed = spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /api/v1/events HTTP/1.0\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        assert!(
            head.iter().any(|line| line.eq_ignore_ascii_case("content-type: text/event-stream")),
            "{head:?}"
        );
        let mut events = Vec::new();
        while !enough(&events) {
            let kind = lines.next().unwrap().strip_prefix("event: ").unwrap().to_owned();
            let data = lines.next().unwrap();
            events.push((kind, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()));
            assert_eq!(lines.next().unwrap(), "");
        }
        events
    });
    followed.await.unwrap()
}

#[tokio::test]
async fn events_begin_with_everything_and_go_on_with_changes() {
    let running = start();
    let events = follow(&running, |events| events.len() == 3).await;
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["state", "update", "update"]);
    let whole = &events[0].1;
    assert_eq!((&whole["status"]["worker_id"], &whole["status"]["simulated"]), (&"w-1".into(), &true.into()));
    assert_eq!(whole["status"]["orchestrator"], "http://orchestrator:50051");
    assert_eq!(whole["tasks"][0]["curve"], serde_json::json!([[7, 0.25, 0.0, null, null]]));
    assert_eq!(whole["recent"].as_array().unwrap().len(), 2);
    assert_eq!(whole["jobs"][0]["curve"][0][1], 0.5);
    assert_eq!(whole["host"][0][1], 12.5);
    let ticks: Vec<u64> = events.iter().map(|(_, data)| data["tick"].as_u64().unwrap()).collect();
    assert!(ticks.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ticks:?}");
    assert_eq!(events[1].1["ended"], serde_json::json!([]), "what was told is not told again");
    assert_eq!(events[1].1["tasks"][0].get("curve"), None);
}

#[tokio::test]
async fn a_lost_orchestrator_and_a_new_outcome_are_in_the_next_changes() {
    let running = start();
    let (begun, first) = tokio::sync::oneshot::channel();
    let begun = std::sync::Mutex::new(Some(begun));
    let told = |data: &Value| data["ended"].as_array()?.iter().find(|end| end["task_id"] == "later").cloned();
    let following = follow(&running, move |events| {
        if let Some(begun) = begun.lock().unwrap().take_if(|_| !events.is_empty()) {
            begun.send(()).unwrap();
        }
        events.last().is_some_and(|(_, data)| told(data).is_some()) || events.len() > 20
    });
    let changing = async {
        first.await.unwrap();
        let mut lost = status();
        lost.link = LinkState::Disconnected;
        lost.recent.push(outcome("later", Err(TaskError::new(ErrorCode::Panic, "boom"))));
        running.worker.say(lost);
    };
    let (events, ()) = tokio::join!(following, changing);
    let last = &events.last().unwrap().1;
    assert_eq!(told(last).expect("the outcome was never told")["error_code"], "PANIC");
    assert_eq!(last["status"]["orchestrator_connection"], "disconnected");
}

#[tokio::test]
async fn many_may_follow_and_one_more_is_told_why_not() {
    let running = start();
    let mut held = Vec::new();
    for _ in 0..events::MOST_VIEWERS {
        let address = running.address;
        let follower = spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /api/v1/events HTTP/1.0\r\n\r\n").unwrap();
            let mut first = [0; 15];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(&first[9..], b"200 OK");
            stream
        });
        held.push(follower.await.unwrap());
    }
    let refused = running.get("/api/v1/events").await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &"unavailable".into()));
    // None of them reads on, and everything else is answered all the same.
    assert_eq!(running.get("/health").await.status, 200);
    // They do not hold up the end either.
    running.shutdown.cancel();
    time::timeout(Patience::default().grace * 4, running.server).await.unwrap().unwrap().unwrap();
    drop(held);
}

#[tokio::test]
async fn the_page_loads_only_what_the_worker_has() {
    let running = start();
    let page = running.get("/").await;
    assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    let text = page.text();
    let names: Vec<&str> =
        text.split("\"/page/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(names.contains(&"main.js") && names.contains(&"style.css") && names.len() > 4, "{names:?}");
    for name in names {
        let file = running.get(&format!("/page/{name}")).await;
        assert_eq!(file.status, 200, "{name}");
        assert!(file.head.contains("nosniff") && !file.body.is_empty(), "{name}: {}", file.head);
        assert!(!file.text().contains("src=\"http") && !file.text().contains("@import"), "{name}");
    }
    assert!(!text.contains("style=\"") && !text.contains("onclick"), "the policy would refuse it");
    assert_eq!(running.get("/page/nothing.js").await.status, 404);
}

#[tokio::test]
async fn nobody_cancels_or_drains_where_no_token_is_configured() {
    let running = start();
    assert_eq!(running.get("/api/v1/status").await.json()["control"], "none");
    for path in ["/api/v1/drain", "/api/v1/tasks/held/cancel"] {
        for headers in ["", "Authorization: Bearer secret\r\n", "Authorization: Bearer \r\n"] {
            let answer = running.send(&format!("POST {path}"), headers).await;
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &"forbidden".into()));
            assert!(answer.json()["error"]["message"].as_str().unwrap().contains("AUTH_TOKEN_FILE"));
        }
        assert_eq!(running.get(path).await.status, 405, "a link cannot do it");
    }
}

#[tokio::test]
async fn whoever_knows_the_token_may_drain() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "a-secret-of-some-length").unwrap();
    let config = guard::Config { token_file: Some(token_file), ..guard::Config::default() };
    let guard = config.open(&guard::Metrics::new().unwrap()).unwrap().http;
    let mut running = start_as(Patience::default(), guard, Control::Token);
    let known = "Authorization: Bearer a-secret-of-some-length\r\n";
    let status = running.send("GET /api/v1/status", known).await;
    assert_eq!(status.json()["control"], "token");
    for headers in ["", "Authorization: Bearer other\r\n", "Authorization: a-secret-of-some-length\r\n"] {
        let answer = running.send("POST /api/v1/drain", headers).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &"unauthenticated".into()));
        assert_eq!(running.send("GET /api/v1/events", headers).await.status, 401);
    }
    assert_eq!(running.get("/").await.status, 200, "the page itself holds nothing of the worker");
    assert!(!running.worker.was_asked());
    let of_another_site = format!("{known}Sec-Fetch-Site: cross-site\r\n");
    let answer = running.send("POST /api/v1/drain", &of_another_site).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &"forbidden".into()));
    assert!(!running.worker.was_asked());
    let own = format!("{known}Sec-Fetch-Site: same-origin\r\n");
    let answer = running.send("POST /api/v1/drain", &own).await;
    assert_eq!((answer.status, &answer.json()["done"]), (200, &true.into()));
    assert!(running.worker.was_asked());
    let answer = running.send("POST /api/v1/tasks/a%20b/cancel", known).await;
    assert_eq!((answer.status, &answer.json()["error"]["field"]), (400, &"task_id".into()));
}

#[tokio::test]
async fn a_certificate_lets_order_where_there_is_no_token() {
    let running = start_as(Patience::default(), Guard::none(), Control::Certificate);
    assert_eq!(running.get("/api/v1/status").await.json()["control"], "certificate");
    assert_eq!(running.send("POST /api/v1/drain", "").await.status, 200);
}

#[tokio::test]
async fn events_end_in_order_before_their_connection_is_cut() {
    let patience = Patience { connection: Duration::from_millis(300), ..Patience::default() };
    let running = start_with(patience);
    let address = running.address;
    // HTTP/1.1 marks the end of an answer, so that an end is told from a break.
    let heard = spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: w\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    });
    let heard = heard.await.unwrap();
    assert!(heard.contains("event: state\n"), "{heard}");
    assert!(heard.ends_with("\r\n0\r\n\r\n"), "{heard}");
}
