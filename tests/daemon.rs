//! The daemon as a service manager and an operator meet it, on devices that carry nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Far more than anything takes, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

const CONFIG: &str = r#"
[system]
host-name = "TEST"

[interfaces.ethernet.eth0]
address = "192.0.2.1/24"
port = "net_null0,no-rx=1"

[interfaces.ethernet.eth1]
address = "198.51.100.1/24"
port = "net_null1,no-rx=1"
mtu = 1400

[dataplane]
workers = [0]
memory = 64
hugepages = false
buffers = 2048

[host]
tun = ""
socket = "SOCKET"
"#;

#[test]
fn starts_answers_reloads_and_stops() {
    let mut daemon = Daemon::start(CONFIG);
    daemon.expect("READY=1");
    daemon.expect("WATCHDOG=1");
    daemon.expect("WATCHDOG=1");

    let ports = daemon.ask(&json!({"command": "show", "topic": "ports"}));
    let ports = ports["ok"]["ports"].as_array().unwrap();
    assert_eq!(ports.iter().map(|port| &port["name"]).collect::<Vec<_>>(), ["eth0", "eth1"]);
    assert_eq!(ports[1]["mtu"], 1400);
    let workers = daemon.ask(&json!({"command": "show", "topic": "workers"}));
    assert_eq!(workers["ok"]["workers"].as_array().map(Vec::len), Some(1));

    daemon.configure(&CONFIG.replace("192.0.2.1/24", "192.0.2.7/24"));
    daemon.signal("HUP");
    daemon.expect("RELOADING=1");
    daemon.expect("READY=1");
    let config = daemon.ask(&json!({"command": "show", "topic": "config"}));
    assert!(config["ok"]["config"].as_str().unwrap().contains("192.0.2.7/24"), "{config}");

    // What cannot be put in force changes nothing, and harms nothing.
    for refused in [CONFIG.replace("1400", "1300"), CONFIG.replace("192.0.2.1/24", "192.0.2.1/99")] {
        daemon.configure(&refused);
        let answer = daemon.ask(&json!({"command": "reload"}));
        assert!(answer["error"].is_string(), "{answer}");
    }

    daemon.configure(CONFIG);
    let second =
        Daemon::run(&daemon.folder.path().join("dmvpn.toml")).stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(told.contains("another process answers"), "{told}");
    assert!(daemon.ask(&json!({"command": "show", "topic": "drops"}))["ok"].is_object());

    let begin = Instant::now();
    daemon.signal("TERM");
    daemon.expect("STOPPING=1");
    assert_eq!(ended(&mut daemon.process).code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(!daemon.socket().exists());
}

#[test]
fn says_why_it_does_not_start() {
    for (config, reason) in [
        (CONFIG.replace("net_null1,no-rx=1", "net_nul1"), "net_nul1"),
        (CONFIG.replace("1400", "9999"), "mtu"),
        (CONFIG.replace("[0]", "[4000]"), "4000"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dmvpn.toml");
        fs::write(&file, config.replace("SOCKET", "/nowhere/socket")).unwrap();
        let output = Daemon::run(&file).stderr(Stdio::piped()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn checks_without_starting() {
    let check = |config: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dmvpn.toml");
        fs::write(&file, config.replace("SOCKET", "/nowhere/socket")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_dmvpnd")).arg("--check").arg(&file).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap().replace(file.to_str().unwrap(), "FILE");
        (output.status.code(), said, String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check(CONFIG), (Some(0), "FILE: ok\n".to_owned(), String::new()));
    let (status, said, told) = check(&CONFIG.replace("1400", "9999").replace("192.0.2.1/24", "192.0.2.1/99"));
    assert_eq!((status, &*said), (Some(1), ""));
    assert!(told.contains("9999") && told.contains("192.0.2.1/99"), "all mistakes at once: {told}");
}

/// A running daemon, its folder, and the socket of its service manager.
struct Daemon {
    process: Child,
    folder: TempDir,
    service_manager: UnixDatagram,
}

impl Daemon {
    fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let notify = folder.path().join("notify");
        let service_manager = UnixDatagram::bind(&notify).unwrap();
        service_manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let file = folder.path().join("dmvpn.toml");
        fs::write(&file, config.replace("SOCKET", folder.path().join("socket").to_str().unwrap())).unwrap();
        let mut command = Self::run(&file);
        command.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", "600000");
        Self { process: command.spawn().unwrap(), folder, service_manager }
    }

    fn run(file: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmvpnd"));
        command.arg("--config").arg(file).stdin(Stdio::null()).env_remove("WATCHDOG_PID");
        command
    }

    fn configure(&self, config: &str) {
        let text = config.replace("SOCKET", self.socket().to_str().unwrap());
        fs::write(self.folder.path().join("dmvpn.toml"), text).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.process.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    /// Waits until the service manager is told `state`.
    fn expect(&self, state: &str) {
        let mut message = [0; 256];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let len =
                self.service_manager.recv(&mut message).unwrap_or_else(|error| panic!("{state}: {error}"));
            if String::from_utf8_lossy(&message[..len]).lines().any(|line| line == state) {
                return;
            }
        }
        panic!("the service manager was never told {state}");
    }

    fn ask(&self, request: &Value) -> Value {
        let mut socket = UnixStream::connect(self.socket()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(socket, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Where a test has failed it may still run.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ended(process: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
}
