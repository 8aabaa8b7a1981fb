//! The thread that writes. Jobs that wait together become one transaction; each is a savepoint of its own, so
//! that one's failure undoes nothing of another.

use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::errors;
use crate::{Error, Result};

/// Jobs that wait at most; who has more waits.
const QUEUE_JOBS_MAX: usize = 256;
/// Jobs that share a transaction at most.
const GROUP_JOBS_MAX: usize = 64;

/// One job: runs within a transaction, and is told afterwards how that ended.
trait Job: Send {
    /// Whether it succeeded; what it did is undone if not.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers the caller.
    fn end(self: Box<Self>, committed: Result<()>);
}

struct Call<F, T> {
    run: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Job for Call<F, T>
where
    F: FnOnce(&Connection) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        self.result = self.run.take().map(|run| run(connection));
        matches!(self.result, Some(Ok(_)))
    }

    fn end(self: Box<Self>, committed: Result<()>) {
        let result = match self.result {
            Some(Err(error)) => Err(error),
            Some(Ok(value)) => committed.map(|()| value),
            None => committed.and(Err(stopped())),
        };
        // Nobody listens when the caller was dropped meanwhile.
        let _ = self.reply.send(result);
    }
}

/// A handle of the thread; the thread ends, having done what it was given, when this is dropped.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Writer> {
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("stagepost-sqlite".to_owned())
            .spawn(move || work(&connection, queue))
            .map_err(|e| Error::Unavailable(e.to_string()))?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `run` in a transaction; durable when this returns `Ok`.
    pub(super) async fn call<T, F>(&self, run: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Call { run: Some(run), result: None, reply });
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It has at most a queue of short jobs left. Afterwards the file can be opened again.
            let _ = thread.join();
        }
    }
}

fn stopped() -> Error {
    Error::Unavailable("the thread that writes has stopped".to_owned())
}

fn work(connection: &Connection, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_JOBS_MAX {
            match queue.try_recv() {
                Ok(job) => group.push(job),
                Err(_) => break,
            }
        }
        let committed = transaction(connection, &mut group);
        for job in group {
            job.end(match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(errors_copy(error)),
            });
        }
    }
}

/// Runs a group of jobs; `Err`: nothing of any of them was written.
fn transaction(connection: &Connection, group: &mut [Box<dyn Job>]) -> Result<()> {
    let failed = errors::failed("write a transaction");
    let execute = |sql| connection.prepare_cached(sql)?.execute([]).map(drop);
    execute("BEGIN IMMEDIATE").map_err(&failed)?;
    let alone = group.len() == 1;
    let mut end = "COMMIT";
    for job in group {
        if !alone {
            execute("SAVEPOINT job").map_err(|e| give_up(connection, e))?;
        }
        let done = job.run(connection);
        // A full disk, for one, makes SQLite roll back everything by itself.
        if connection.is_autocommit() {
            return Err(Error::Unavailable("the transaction was rolled back".to_owned()));
        }
        if alone && !done {
            end = "ROLLBACK";
        } else if !alone {
            if !done {
                execute("ROLLBACK TO job").map_err(|e| give_up(connection, e))?;
            }
            execute("RELEASE job").map_err(|e| give_up(connection, e))?;
        }
    }
    execute(end).map_err(|e| give_up(connection, e))
}

fn give_up(connection: &Connection, error: rusqlite::Error) -> Error {
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "a transaction could not be rolled back");
    }
    errors::failed("write a transaction")(error)
}

/// The same error for the next job of the group.
fn errors_copy(error: &Error) -> Error {
    match error {
        Error::Database { what, reason } => Error::Database { what, reason: reason.clone() },
        Error::Unavailable(reason) => Error::Unavailable(reason.clone()),
        other => Error::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn jobs_share_a_transaction_and_one_failure_undoes_only_itself() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
        let writer = Writer::start(connection).unwrap();
        let (release, held) = channel();
        // While the first job holds the thread, the others gather.
        let first = writer.call(move |_| held.recv().map_err(|_| stopped()));
        let insert = |n: i64, fail: bool| {
            writer.call(move |c| {
                c.execute("INSERT INTO t VALUES (?1)", [n]).map_err(errors::failed("insert"))?;
                if fail { Err(Error::Conflict("wanted".to_owned())) } else { Ok(()) }
            })
        };
        let release = async { release.send(()).unwrap() };
        let (first, a, b, again, c, ()) = tokio::join!(
            biased;
            first, insert(1, false), insert(2, true), insert(1, false), insert(3, false), release
        );
        first.unwrap();
        a.unwrap();
        assert!(matches!(b, Err(Error::Conflict(_))));
        assert!(matches!(again, Err(Error::Conflict(_))));
        c.unwrap();
        let sum = "SELECT sum(n) FROM t";
        let sum: Result<i64> =
            writer.call(move |c| c.query_row(sum, [], |r| r.get(0)).map_err(errors::failed("sum"))).await;
        assert_eq!(sum.unwrap(), 4);
    }
}
