//! A peer on loopback that says whatever it is told to, and remembers what it was sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a peer does with a connection.
#[derive(Clone, Debug)]
pub(super) enum Manner {
    /// Reads one request and answers these bytes.
    Says(String),
    /// Answers at once, whatever it is asked.
    Blurts(&'static str),
    /// Accepts, and says nothing for ever.
    Silent,
}

/// A peer; it ends when dropped.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Peer {
    pub(super) async fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                match &manner {
                    Manner::Says(answer) => {
                        let request = read_request(&mut stream).await;
                        seen.lock().unwrap().push(request);
                        // The client may have gone; what was read is what counts.
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                    Manner::Blurts(answer) => {
                        let _ = stream.write_all(answer.as_bytes()).await;
                        let mut buffer = vec![0; 4096];
                        let count = stream.read(&mut buffer).await.unwrap_or(0);
                        seen.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).into_owned());
                    }
                    Manner::Silent => {
                        seen.lock().unwrap().push(String::new());
                        kept.push(stream);
                    }
                }
            }
        });
        Self { address, requests, task }
    }

    /// One that answers every request with this status and JSON body.
    pub(super) async fn json(status: u16, body: &str) -> Self {
        let length = body.len();
        Self::new(Manner::Says(format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )))
        .await
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests read so far, or an empty text for each connection of a silent peer.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Head and body of one request with a `content-length`, or without a body.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return text,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Opens a URL as a browser would and gives the address it is sent to.
pub(super) async fn location_of(url: &url::Url) -> String {
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let target = &url[url::Position::BeforePath..];
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: {}:{}\r\nconnection: close\r\n\r\n", address.0, address.1);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let location = answer.lines().find_map(|line| line.strip_prefix("location: "));
    location.unwrap_or_else(|| panic!("no redirect: {answer}")).to_owned()
}
