//! A network that can fail: stands between a process and its server, and cuts, delays or swallows what passes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Bytes that are passed on at a time.
const CHUNK: usize = 16 * 1024;

/// What the network does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// It passes.
    Fair,
    /// Each chunk comes late.
    Slow(Duration),
    /// Nothing passes, and nobody is told: what a firewall that forgot the connection does.
    Stalled,
    /// What the client sends arrives, but no answer comes: half of the connection is gone.
    Mute,
    /// Connections are refused.
    Away,
}

/// A proxy for one server. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Counts the cuts.
    cuts: watch::Sender<u64>,
    carried: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port for connections to the server that `url` names.
    pub async fn to(url: &str) -> Proxy {
        let target = host_and_port(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let (weather, cuts) = (watch::Sender::new(Weather::Fair), watch::Sender::new(0));
        let carried = Arc::new(AtomicU64::new(0));
        let (weathers, cut, counter) = (weather.subscribe(), cuts.subscribe(), Arc::clone(&carried));
        let accepting = tokio::spawn(async move {
            // Ended together with the proxy.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                if *weathers.borrow() == Weather::Away {
                    continue;
                }
                let (target, weathers, mut cut) = (target.clone(), weathers.clone(), cut.clone());
                let counter = Arc::clone(&counter);
                cut.mark_unchanged();
                connections.spawn(async move {
                    // A server that is down refuses, and so do we.
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, weathers.clone(), false, &counter) => {}
                        () = pass(from_server, to_client, weathers, true, &counter) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Proxy { address, weather, cuts, carried, accepting }
    }

    /// The same URL with the proxy in the server's place.
    pub fn url(&self, of: &str) -> String {
        of.replacen(host_and_port(of), &self.address.to_string(), 1)
    }

    /// Ends all connections; new ones are taken.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Bytes that passed, both ways.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes on what comes in one direction, until one side ends.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    answers: bool,
    carried: &AtomicU64,
) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let passes = |weather: &Weather| match weather {
            Weather::Stalled => false,
            Weather::Mute => !answers,
            Weather::Fair | Weather::Slow(_) | Weather::Away => true,
        };
        let late = match weather.wait_for(passes).await.as_deref() {
            Ok(Weather::Slow(late)) => Some(*late),
            Ok(_) => None,
            // The proxy is gone.
            Err(_) => return,
        };
        if let Some(late) = late {
            tokio::time::sleep(late).await;
        }
        if to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
        carried.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// `127.0.0.1:5672` in `amqp://guest:guest@127.0.0.1:5672/%2f`.
fn host_and_port(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_all_but_the_address() {
        for (url, address) in [
            ("amqp://guest:guest@127.0.0.1:5672/%2f", "127.0.0.1:5672"),
            ("postgres://stagepost@127.0.0.1:5432/stagepost?options=-c", "127.0.0.1:5432"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(host_and_port(url), address);
        }
    }

    #[tokio::test]
    async fn what_is_stalled_comes_later_and_what_is_cut_ends() {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let proxy = Proxy::to(&echo.local_addr().expect("it listens").to_string()).await;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    // It ends with its client.
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let mut client = TcpStream::connect(proxy.address).await.expect("the proxy listens");
        let mut answer = [0; 4];
        client.write_all(b"fair").await.expect("it is sent");
        client.read_exact(&mut answer).await.expect("it comes back");
        assert_eq!(&answer, b"fair");

        // What arrives is counted, so it is known that the answer was held back, not only late.
        proxy.set(Weather::Mute);
        let before = proxy.carried();
        client.write_all(b"mute").await.expect("it is sent");
        while proxy.carried() < before + 4 {
            tokio::task::yield_now().await;
        }
        assert_eq!(proxy.carried(), before + 4);
        proxy.set(Weather::Slow(Duration::from_millis(20)));
        client.read_exact(&mut answer).await.expect("it comes after all");
        assert_eq!(&answer, b"mute");

        proxy.cut();
        assert!(!matches!(client.read(&mut answer).await, Ok(1..)));
        proxy.set(Weather::Away);
        let mut refused = TcpStream::connect(proxy.address).await.expect("the port stays");
        assert!(!matches!(refused.read(&mut answer).await, Ok(1..)));
    }
}
