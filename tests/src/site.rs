//! An installation under test: where it listens, what its processes get to know.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use stagepost_server::ApiClient;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    Process, Random, Servers,
    binaries::{Binary, STAGEPOST},
    until,
};

/// How long a process may take to become ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// An installation: on RabbitMQ and PostgreSQL, or the embedded default.
pub struct Site {
    port: u16,
    /// The two URLs and the prefix, or nothing.
    servers: Option<[(&'static str, String); 3]>,
    /// Where the embedded default keeps its data.
    data: Option<PathBuf>,
    /// Further variables of its processes.
    variables: Vec<(&'static str, String)>,
    /// Asks it.
    pub api: ApiClient,
}

impl Site {
    /// On servers.
    pub fn on(servers: &Servers) -> Site {
        Site::at(&servers.amqp_url, &servers.database_url, &servers.prefix)
    }

    /// On servers at these URLs.
    pub fn at(amqp_url: &str, database_url: &str, prefix: &str) -> Site {
        Site::new(
            Some([
                ("AMQP_URL", amqp_url.to_owned()),
                ("DATABASE_URL", database_url.to_owned()),
                ("STAGEPOST_QUEUE_PREFIX", prefix.to_owned()),
            ]),
            None,
        )
    }

    /// The embedded default, with a data directory of its own.
    pub fn embedded() -> Site {
        let data = std::env::temp_dir().join(format!("stagepost-it-{}", uuid::Uuid::new_v4()));
        Site::new(None, Some(data))
    }

    fn new(servers: Option<[(&'static str, String); 3]>, data: Option<PathBuf>) -> Site {
        let port = free_port();
        let api = ApiClient::new(&format!("http://127.0.0.1:{port}")).expect("that is a URL");
        Site { port, servers, data, variables: Vec::new(), api }
    }

    /// Sets a variable for all processes that are started from now on.
    #[must_use]
    pub fn with_variable(mut self, name: &'static str, value: &str) -> Site {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Another process of the same installation: another address, the same servers.
    #[must_use]
    pub fn another(&self) -> Site {
        let mut another = Site::new(self.servers.clone(), self.data.clone());
        another.variables.clone_from(&self.variables);
        another
    }

    /// A command in the environment of this installation's processes, and in no other.
    pub fn command(&self, binary: Binary) -> Command {
        let mut command = binary.command();
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("STAGEPOST_")
                || text.starts_with("AWS_")
                || text == "AMQP_URL"
                || text == "DATABASE_URL"
            {
                command.env_remove(&name);
            }
        }
        command.env("STAGEPOST_ENDPOINT", self.api.endpoint());
        command.envs(self.variables.iter().map(|(name, value)| (*name, value.as_str())));
        command.envs(self.servers.iter().flatten().map(|(name, value)| (*name, value.as_str())));
        command
    }

    /// Starts `stagepost serve`, or `stagepost dev` where it is embedded, and waits until it is ready.
    pub async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    /// As [`Site::start`], with further arguments.
    pub async fn start_with(&self, arguments: &[&str]) -> Process {
        let mut process = self.launch(arguments);
        self.ready(&mut process).await;
        process
    }

    /// As [`Site::start_with`], without waiting.
    pub fn launch(&self, arguments: &[&str]) -> Process {
        let mut command = self.command(STAGEPOST);
        let name = match &self.data {
            Some(data) => {
                command.arg("dev").arg("--data").arg(data);
                "stagepost dev"
            }
            None => {
                command.arg("serve");
                "stagepost serve"
            }
        };
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]).args(arguments);
        Process::start(name, command)
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&self, process: &mut Process) {
        until("the server is ready", READY_WITHIN, async || {
            assert!(process.is_running(), "the server ended while it started:\n{}", process.output());
            self.get("/readyz").await.filter(|answer| answer.starts_with("HTTP/1.1 200")).map(drop)
        })
        .await;
    }

    /// Starts a worker: on the broker where there is one, else it polls the API.
    pub fn worker(&self, binary: Binary) -> Process {
        self.worker_with(binary, &[])
    }

    /// As [`Site::worker`], with further variables.
    pub fn worker_with(&self, binary: Binary, variables: &[(&str, &str)]) -> Process {
        let mut command = self.command(binary);
        command.envs(variables.iter().copied());
        if self.servers.is_none() {
            command.env("STAGEPOST_URL", self.api.endpoint());
        }
        Process::start(binary.name, command)
    }

    /// Runs `stagepost` with these arguments to its end.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(STAGEPOST);
        command.args(arguments);
        let ended = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic in between");
        ended.expect("stagepost can be run")
    }

    /// GET, as text with its head; `None` when nobody answers.
    pub async fn get(&self, path: &str) -> Option<String> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    /// POST of a form, as [`Site::get`].
    pub async fn post(&self, path: &str, form: &str) -> Option<String> {
        let length = form.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}"
        ))
        .await
    }

    async fn ask(&self, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(data) = &self.data {
            // It lies in a temporary directory.
            let _ = std::fs::remove_dir_all(data);
        }
    }
}

/// A port below the range from which the kernel gives ports to outgoing connections: one of those could take it
/// while the process that listens is down.
fn free_port() -> u16 {
    let mut random = Random::quiet();
    loop {
        let port = u16::try_from(random.number(10_000..32_000)).expect("below 32,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
