//! A server that hangs up on connections that nobody uses, as llama.cpp's does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::run::bench;

/// How long it waits for the next request of a connection.
const PATIENCE: Duration = Duration::from_millis(3500);

fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let slept = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let slept = slept.clone();
            thread::spawn(move || answer(stream, &slept));
        }
    });
    url
}

/// Answers one request after the other. The first for "slow" takes longer than anybody's patience.
fn answer(mut stream: TcpStream, slept: &AtomicBool) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let (mut length, mut expects) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            expects |= line == "expect: 100-continue";
            if line.is_empty() {
                break;
            }
        }
        if expects {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        let streamed = body.contains("\"stream\":true");
        if streamed && body.contains("slow") && !slept.swap(true, Ordering::AcqRel) {
            thread::sleep(PATIENCE + Duration::from_millis(500));
        }
        let token = r#"{"choices": [{"text": "x", "finish_reason": null}]}"#;
        let text = if streamed { format!("data: {token}\n\ndata: [DONE]\n\n") } else { token.to_owned() };
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_gave_up_is_not_used_again() {
    let url = start();
    let load = ["--url", &url, "--api", "openai", "--adapters", "quick,slow", "--prompt-tokens", "4"];
    let points = ["--output-tokens", "1", "--requests", "2", "--warmup", "0", "--concurrency", "2,2"];
    let run = bench(&[&load[..], &points].concat()).await;
    assert_eq!(run.measured().len(), 2);
}
