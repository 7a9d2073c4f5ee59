//! One request to the daemon.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::protocol::{Answer, Command};

/// How long the daemon may take; a little longer than it gives its own threads.
const PATIENCE: Duration = Duration::from_secs(8);

/// Sends a command and returns the result.
///
/// # Errors
/// What to tell the operator: the daemon is not there, or refuses.
pub(crate) fn ask(socket: &Path, command: &Command) -> Result<Value, String> {
    let answer = exchange(socket, command).map_err(|error| {
        let at = socket.display();
        match error.kind() {
            ErrorKind::NotFound => format!("no daemon: there is no socket {at} (--socket names another)"),
            ErrorKind::ConnectionRefused => format!("no daemon: nothing listens at {at}"),
            ErrorKind::PermissionDenied => format!("no permission to use {at}: are you root?"),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("the daemon at {at} does not answer"),
            ErrorKind::UnexpectedEof => format!("the daemon at {at} broke off"),
            ErrorKind::InvalidData => format!("what listens at {at} is no dmvpnd of this version: {error}"),
            _ => format!("{at}: {error}"),
        }
    })?;
    match answer {
        Answer::Ok(result) => Ok(result),
        Answer::Error(problem) => Err(problem),
    }
}

fn exchange(socket: &Path, command: &Command) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_vec(command)?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Topic;
    use std::os::unix::net::UnixListener;

    /// What `ask` makes of a daemon that answers `answer`.
    fn asked(answer: &'static str) -> Result<Value, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&client).read_line(&mut line).unwrap();
            client.write_all(answer.as_bytes()).unwrap();
            line
        });
        let result = ask(&path, &Command::Show { topic: Topic::Dmvpn });
        assert_eq!(daemon.join().unwrap(), "{\"command\":\"show\",\"topic\":\"dmvpn\"}\n");
        result
    }

    #[test]
    fn answers() {
        assert_eq!(asked("{\"ok\":{\"peers\":[]}}\n"), Ok(serde_json::json!({ "peers": [] })));
        assert_eq!(asked("{\"error\":\"no such peer\"}\n"), Err(String::from("no such peer")));
    }

    #[test]
    fn daemons_that_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let reload = |path: &Path| ask(path, &Command::Reload).unwrap_err();
        assert!(reload(&path).starts_with("no daemon: there is no socket"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(reload(&path).starts_with("no daemon: nothing listens at"));
        assert!(asked("").unwrap_err().ends_with("broke off"));
        assert!(asked("HTTP/1.1 400\n").unwrap_err().contains("no dmvpnd of this version"));
    }
}
