//! Processes under test: started, signalled, killed; what they wrote is shown when the test fails, or always with
//! `STAGEPOST_TEST_SHOW=1` (and `--no-capture`).

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crate::until;

/// Of what a process wrote, a failing test shows so many lines from the end.
const SHOWN_LINES: usize = 400;

/// A process, killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it.
    pub fn start(name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        let readers = pipes.into_iter().flatten().map(|pipe| {
            let output = Arc::clone(&output);
            std::thread::spawn(move || {
                let mut lines = BufReader::new(pipe);
                let mut line = Vec::new();
                while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                    output.push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            })
        });
        let readers = readers.collect();
        Process { name: name.to_owned(), output, readers, child }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout and stderr so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal: `TERM`, `STOP`, `CONT`, …
    pub fn signal(&self, signal: &str) {
        let sent =
            Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &self.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} cannot be sent to {}", self.name);
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended by itself; then all that it wrote is in [`Process::output`].
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let status =
            until(&what, limit, async || self.child.try_wait().expect("our own child can be asked")).await;
        for reader in self.readers.drain(..) {
            // A reader does not panic; should it, its lines are missing and nothing else.
            let _ = reader.join();
        }
        status
    }

    /// SIGTERM; waits until it has ended, which must be with exit code 0.
    pub async fn terminated(&mut self, limit: Duration) {
        self.signal("TERM");
        let status = self.ended(limit).await;
        assert!(status.success(), "{} ended with {status} after SIGTERM", self.name);
    }

    /// Waits until it has written this.
    pub async fn says(&mut self, text: &str, limit: Duration) {
        until(&format!("{} writes '{text}'", self.name), limit, async || {
            let output = self.output();
            let running = matches!(self.child.try_wait(), Ok(None));
            assert!(running || output.contains(text), "{} ended before it wrote '{text}'", self.name);
            output.contains(text).then_some(())
        })
        .await;
    }
}

impl Drop for Process {
    #[expect(clippy::print_stdout, reason = "a failing test shows it")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() || std::env::var_os("STAGEPOST_TEST_SHOW").is_some() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            println!("--- {} ({}), the last of {} lines:", self.name, self.id(), lines.len());
            println!("{}", lines[from..].join("\n"));
        }
    }
}
