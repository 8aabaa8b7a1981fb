//! The programs under test. They are built when a test first needs them, with the profile of the test itself, so that
//! `cargo test` and `cargo nextest run` never test an old one.
//!
//! `STAGEPOST_BINARIES=DIR` names a directory in which they are instead (an archive of tests has no cargo).

use std::{
    collections::HashMap,
    env,
    fs::File,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// A program of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binary {
    /// Its name.
    pub name: &'static str,
}

/// The command line and server.
pub const STAGEPOST: Binary = Binary { name: "stagepost" };
/// The order example.
pub const ORDER_FULFILMENT: Binary = Binary { name: "order-fulfilment" };
/// The approval example.
pub const APPROVAL: Binary = Binary { name: "approval" };
/// The job example.
pub const JOB_POLLER: Binary = Binary { name: "job-poller" };
/// Activities that misbehave when asked to.
pub const TEST_WORKER: Binary = Binary { name: "test-worker" };
/// Activities that keep a ledger.
pub const CHAOS_WORKER: Binary = Binary { name: "chaos-worker" };

/// Binaries that were built, open: cargo may replace the files while a test runs, but a test that restarts a process
/// must start the same program again.
static OPEN: Mutex<Option<HashMap<Binary, File>>> = Mutex::new(None);

impl Binary {
    /// A command that runs it.
    pub fn command(self) -> Command {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let file = open.get_or_insert_default().entry(self).or_insert_with(|| {
            let path = self.path();
            File::open(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
        });
        let mut command = Command::new(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        command.arg0(self.name);
        command
    }

    fn path(self) -> PathBuf {
        if let Some(directory) = env::var_os("STAGEPOST_BINARIES") {
            return PathBuf::from(directory).join(self.name);
        }
        let program = env::current_exe().expect("a process knows its program");
        // target/PROFILE/deps/it-HASH, or target/PROFILE/chaos
        let mut above = program.ancestors().skip(1).filter(|directory| !directory.ends_with("deps"));
        let directory = above.next().expect("a program lies in target/PROFILE");
        self.build(directory);
        directory.join(self.name)
    }

    /// Builds all of them, once per run of nextest, whose tests are processes of their own. All, as cargo chooses the
    /// features of dependencies by what is built together: `tests/run` has built the same before.
    fn build(self, directory: &Path) {
        let marker = env::var("NEXTEST_RUN_ID").ok();
        let marker = marker.map(|run| env::temp_dir().join(format!("stagepost-built-{run}")));
        if marker.as_ref().is_some_and(|marker| marker.exists()) {
            return;
        }
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let target = directory.parent().expect("a profile's directory lies in the target directory");
        let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()))
            .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile])
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap_or_else(|error| panic!("cargo cannot be run: {error}"));
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "the programs cannot be built:\n{said}");
        if let Some(marker) = marker {
            // Without it the next test asks cargo again, which takes a second.
            let _ = File::create(marker);
        }
    }
}
