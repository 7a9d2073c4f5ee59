//! The control socket: requests of `dmvpnctl` and of programs, answered with JSON.
//!
//! A few threads of their own read requests, ask the control thread over a bounded queue, and write answers. So a
//! slow client costs the control thread nothing, and a busy control thread costs a client a clear error message.

mod answer;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use dmvpn_config::{Config, ConfigDelta};
use dmvpn_control::show::{Request, Response};
use dmvpn_dataplane::Counters;
use dmvpn_dpdk::PortStats;

use crate::protocol::{Answer, Command};

/// Clients that are served at the same time; the kernel lets more wait.
const THREADS: usize = 4;
/// Questions that may wait for the control thread.
const QUESTIONS: usize = 2 * THREADS;
/// Longest request, in bytes.
const LONGEST_REQUEST: u64 = 4096;
/// How long a client may take to say what it wants, or to take its answer.
const PATIENCE_WITH_CLIENT: Duration = Duration::from_secs(3);
/// How long the control thread may take.
const PATIENCE_WITH_CONTROL: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5000 });

/// The socket and the threads behind it. When it is dropped, the socket is gone.
pub(crate) struct Api {
    path: PathBuf,
    listener: UnixListener,
    threads: Vec<JoinHandle<()>>,
}

/// What can be told without the control thread.
pub(crate) struct Observed {
    /// The workers: CPU and counters of each.
    pub(crate) workers: Vec<(usize, Arc<Counters>)>,
    /// Link state and device counters of a port, by its number.
    pub(crate) port: Box<dyn Fn(usize) -> Option<(bool, PortStats)> + Send + Sync>,
}

/// What only the control thread can do.
pub(crate) trait Control {
    /// Answers for the control plane, and carries out what follows; `None` if it does not answer.
    fn request(&mut self, request: Request) -> Option<Response>;

    /// The configuration in force.
    fn config(&self) -> &Config;

    /// Reads the configuration file again and puts it in force.
    ///
    /// # Errors
    /// The file is refused, or takes a restart, for these reasons; all stays as it was.
    fn reload(&mut self) -> Result<ConfigDelta, String>;
}

/// The control thread's end: questions from the socket.
pub(crate) struct Questions(Receiver<Question>);

impl Questions {
    /// Answers what has been asked so far. Who goes on asking meanwhile waits for the next call, so that the caller comes
    /// to its other work.
    pub(crate) fn answer(&self, control: &mut impl Control) {
        for question in self.0.try_iter().take(QUESTIONS) {
            let reply = match question.ask {
                Ask::Request(request) => control.request(request).map_or(Reply::Silence, Reply::Response),
                Ask::Config => Reply::Config(control.config().to_string()),
                Ask::Reload => Reply::Reload(control.reload()),
            };
            // Nobody waits any more: the client was told that we are busy.
            let _ = question.reply.try_send(reply);
        }
    }
}

impl Api {
    /// Opens the socket at `path`, for its owner only. `wake` makes the control thread look at its [`Questions`].
    ///
    /// # Errors
    /// The socket cannot be made, or another process answers at it.
    pub(crate) fn open(
        path: &Path,
        observed: Observed,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<(Self, Questions)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let (sender, receiver) = channel::bounded(QUESTIONS);
        let clerk = Arc::new(Clerk { observed, desk: Desk { questions: sender, wake: Box::new(wake) } });
        let mut api = Self { path: path.to_owned(), listener, threads: Vec::new() };
        for number in 0..THREADS {
            let (listener, clerk) = (api.listener.try_clone()?, Arc::clone(&clerk));
            let thread = thread::Builder::new().name(format!("api{number}"));
            api.threads.push(thread.spawn(move || clerk.serve(&listener))?);
        }
        Ok((api, Questions(receiver)))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // Whoever waits for a client now waits no more.
        if rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).is_ok() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

/// Removes the socket of a process that is gone.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(ErrorKind::AddrInUse, "another process answers there"));
    }
    fs::remove_file(path)
}

/// A question to the control thread.
struct Question {
    ask: Ask,
    reply: Sender<Reply>,
}

enum Ask {
    Request(Request),
    Config,
    Reload,
}

enum Reply {
    Response(Response),
    /// The control thread does not answer.
    Silence,
    Config(String),
    Reload(Result<ConfigDelta, String>),
}

/// Where questions to the control thread are handed in.
struct Desk {
    questions: Sender<Question>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Desk {
    fn ask(&self, ask: Ask) -> Result<Reply, String> {
        let (sender, receiver) = channel::bounded(1);
        self.questions.try_send(Question { ask, reply: sender }).map_err(|error| match error {
            channel::TrySendError::Full(_) => "too many requests at once",
            channel::TrySendError::Disconnected(_) => "the daemon is stopping",
        })?;
        (self.wake)();
        match receiver.recv_timeout(PATIENCE_WITH_CONTROL) {
            Ok(Reply::Silence) | Err(RecvTimeoutError::Timeout) => {
                Err("the control thread does not answer".to_owned())
            }
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Disconnected) => Err("the daemon is stopping".to_owned()),
        }
    }
}

/// Serves clients, one after the other per thread.
struct Clerk {
    observed: Observed,
    desk: Desk,
}

impl Clerk {
    /// Until the socket is shut down.
    fn serve(&self, listener: &UnixListener) {
        loop {
            match listener.accept() {
                // A client that breaks off harms nobody but itself.
                Ok((client, _)) => drop(self.attend(&client)),
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // The process has no file descriptors left: some will come back.
                Err(error) if is_shortage(&error) => thread::sleep(Duration::from_millis(100)),
                Err(_) => return,
            }
        }
    }

    /// Answers each line of a client with a line.
    fn attend(&self, client: &UnixStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE_WITH_CLIENT))?;
        client.set_write_timeout(Some(PATIENCE_WITH_CLIENT))?;
        let mut lines = BufReader::new(client);
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.by_ref().take(LONGEST_REQUEST).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let is_whole = line.ends_with(b"\n");
            let answer = match serde_json::from_slice(&line) {
                Ok(command) => self.answer(command),
                Err(error) => Answer::Error(format!("not a request: {error}")),
            };
            let mut text = serde_json::to_vec(&answer)?;
            text.push(b'\n');
            let mut client = client;
            client.write_all(&text)?;
            if !is_whole {
                return client.shutdown(Shutdown::Both);
            }
        }
    }

    fn answer(&self, command: Command) -> Answer {
        answer::answer(&self.observed, &self.desk, command).map_or_else(Answer::Error, Answer::Ok)
    }
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|shortage| shortage.raw_os_error() == code))
}
