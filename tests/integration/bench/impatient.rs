//! A server that hangs up though it never said so, as llama.cpp's does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::run::bench;

fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    url
}

/// Answers one request after the other, and after a stream none.
fn answer(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
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
        let token = r#"{"choices": [{"text": "x", "finish_reason": null}]}"#;
        let text = if streamed { format!("data: {token}\n\ndata: [DONE]\n\n") } else { token.to_owned() };
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).ok()?;
        if streamed {
            // A moment later: the client has looked, and keeps the connection.
            thread::sleep(Duration::from_millis(20));
            return None;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_on_a_connection_that_the_server_gave_up() {
    let url = start();
    let load = ["--url", &url, "--api", "openai", "--adapters", "a", "--prompt-tokens", "4"];
    let points = ["--output-tokens", "1", "--requests", "20", "--concurrency", "1,4"];
    let run = bench(&[&load[..], &points].concat()).await;
    assert_eq!(run.measured().len(), 2);
}
