//! A small HTTP server in the place of a service that is asked something: it takes every request and says `{}`.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// Requests that nobody has looked at yet.
const WAITING_MAX: usize = 64;

/// The server. It ends with the test's runtime.
#[derive(Debug)]
pub struct Desk {
    /// Where it is.
    pub url: String,
    asked: mpsc::Receiver<Value>,
}

impl Desk {
    /// Listens on a free port.
    pub async fn open() -> Desk {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let (sender, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    // Whoever sends half a request has gone away and asks again.
                    if let Some(body) = serve(stream).await {
                        drop(sender.send(body).await);
                    }
                });
            }
        });
        Desk { url, asked }
    }

    /// Waits for the next request, and returns its body.
    pub async fn asked(&mut self, limit: Duration) -> Value {
        let asked = tokio::time::timeout(limit, self.asked.recv()).await;
        asked.expect("the desk is asked in time").expect("the desk is open")
    }
}

async fn serve(stream: TcpStream) -> Option<Value> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    stream.write_all(answer.as_bytes()).await.ok()?;
    serde_json::from_slice(&body).ok()
}
