use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::mpsc;

use dmvpn_control::nhrp::Kind;
use dmvpn_control::nhrp::show::{CacheEntry, EntryKind, NextHopServer, NhsState};
use dmvpn_control::show::{Binding, EspSa, Ike, Nhrp, Peer, Port, Rekey, Topic};
use dmvpn_dataplane::Stage;
use dmvpn_tables::PortId;
use serde_json::{Value, json};

use super::*;

const HUB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HUB_NBMA: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 41);
const SPOKE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const SPOKE_NBMA: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 18);

/// A control thread that knows two peers and looks for a third.
struct Fake {
    config: Config,
    asked: mpsc::Sender<Request>,
}

impl Control for Fake {
    fn request(&mut self, request: Request) -> Option<Response> {
        self.asked.send(request).unwrap();
        Some(match request {
            Request::Show(Topic::Dmvpn) => {
                Response::Dmvpn(vec![peer(SPOKE_NBMA, SPOKE, Kind::Cached), peer(HUB_NBMA, HUB, Kind::Nhs)])
            }
            Request::Show(Topic::Nhrp) => Response::Nhrp(vec![nhrp()]),
            Request::Show(Topic::Ike) => Response::Ike(Ike { sas: Vec::new(), counters: BTreeMap::new() }),
            Request::Show(Topic::Sas) => {
                Response::Sas(vec![pair("00000001", Some("00000002"), true), pair("3", None, false)])
            }
            Request::Show(Topic::Routes) => Response::Routes(Vec::new()),
            Request::Show(Topic::Neighbors) => Response::Neighbors(Vec::new()),
            Request::Show(Topic::Ports) => Response::Ports(vec![port("eth0"), port("eth1")]),
            Request::Rekey { peer: Some(peer), .. } | Request::Disconnect { peer: Some(peer) } => {
                if peer == HUB { Response::Done { peers: 1 } } else { Response::NoSuchPeer }
            }
            _ => Response::Done { peers: 2 },
        })
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn reload(&mut self) -> Result<ConfigDelta, String> {
        if self.config.host_name == "HUB" {
            self.config.host_name = String::from("BROKEN");
            return Ok(ConfigDelta { hot: vec!["system".into()], restart: Vec::new() });
        }
        Err(String::from("error: unknown key"))
    }
}

fn peer(nbma: Ipv4Addr, address: Ipv4Addr, kind: Kind) -> Peer {
    Peer {
        tunnel: "tun0".into(),
        peer: "00000000".into(),
        nbma,
        port: (kind == Kind::Cached).then_some(4500),
        overlay: vec![Binding { address, kind }],
        up: true,
        up_for: Some(9),
        identity: Some(nbma.to_string()),
        idle_for: None,
        received: 5,
        sent: 6,
    }
}

fn nhrp() -> Nhrp {
    let entry = |overlay, kind, nbma, up| CacheEntry {
        overlay,
        kind,
        nbma,
        claimed: None,
        up,
        unique: false,
        used: false,
        expires_in: None,
    };
    Nhrp {
        tunnel: "tun0".into(),
        description: Some("to the hub".into()),
        cache: vec![
            entry(Ipv4Addr::new(10, 0, 0, 2), EntryKind::Local, None, true),
            entry(HUB, EntryKind::Nhs, Some(HUB_NBMA), true),
            entry(SPOKE, EntryKind::Cached, Some(SPOKE_NBMA), true),
            entry(Ipv4Addr::new(10, 0, 0, 9), EntryKind::Incomplete, None, false),
        ],
        next_hop_servers: vec![NextHopServer {
            overlay: HUB,
            nbma: HUB_NBMA,
            state: NhsState::Registering,
            unanswered: 1,
            public: None,
            expires_in: None,
        }],
        shortcuts: Vec::new(),
        counters: dmvpn_control::nhrp::show::Counters::default(),
    }
}

fn pair(spi_in: &str, spi_out: Option<&str>, sending: bool) -> EspSa {
    EspSa {
        tunnel: "tun0".into(),
        peer: "00000000".into(),
        nbma: HUB_NBMA,
        spi_in: spi_in.into(),
        spi_out: spi_out.map(Into::into),
        sending,
        mode: "transport".into(),
        udp: false,
        proposal: "aes256gcm128".into(),
        pfs: true,
        age: 1,
        remaining: 1799,
        packets_in: 10,
        bytes_in: 1000,
        packets_out: 20,
        bytes_out: 2000,
        replayed: 3,
        unauthentic: 4,
    }
}

fn port(name: &str) -> Port {
    Port {
        name: name.into(),
        device: "net_null0".into(),
        mac: "02:00:00:00:00:01".into(),
        address: None,
        mtu: 1500,
        description: None,
    }
}

/// A daemon without anything but its socket.
struct Daemon {
    path: PathBuf,
    asked: mpsc::Receiver<Request>,
    /// Whether to go on.
    wake: mpsc::Sender<bool>,
    control: Option<JoinHandle<()>>,
    api: Option<Api>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/dmvpnd.sock");
        let (wake, awake) = mpsc::channel();
        let asks = wake.clone();
        let (api, questions) = Api::open(&path, observed(), move || asks.send(true).unwrap()).unwrap();
        let (ask, asked) = mpsc::channel();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/hub.toml");
        let mut fake = Fake { config: dmvpn_config::load(&example).unwrap(), asked: ask };
        let control = thread::spawn(move || {
            while awake.recv() == Ok(true) {
                questions.answer(&mut fake);
            }
        });
        Self { path, asked, wake, control: Some(control), api: Some(api), _folder: folder }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    fn ask(&self, request: &str) -> Value {
        let mut client = self.connect();
        writeln!(client, "{request}").unwrap();
        read_answer(&mut BufReader::new(client))
    }

    fn show(&self, topic: &str) -> Value {
        let mut answer = self.ask(&format!("{{\"command\":\"show\",\"topic\":\"{topic}\"}}"));
        answer["ok"].take()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.api.take());
        let _ = self.wake.send(false);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

fn read_answer(client: &mut impl BufRead) -> Value {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn observed() -> Observed {
    let workers = [(0, 5), (3, 7)].map(|(cpu, packets)| {
        let counters = Counters::new(2);
        counters.port(PortId(1)).unwrap().rx_packets.add(packets);
        counters.busy.add(1);
        counters.stage(Stage::Encrypt).packets.add(packets);
        (cpu, Arc::new(counters))
    });
    let stats = PortStats { rx_missed: 11, ..PortStats::default() };
    Observed { workers: workers.into(), port: Box::new(move |number| (number == 1).then_some((true, stats))) }
}

#[test]
fn peers_are_shown_by_overlay_address() {
    let daemon = Daemon::start();
    let answer = daemon.show("dmvpn");
    let peers = answer["peers"].as_array().unwrap();
    let lines: Vec<_> = peers
        .iter()
        .map(|of| {
            [&of["overlay"], &of["nbma"], &of["state"], &of["kind"]]
                .map(|value| value.as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        lines,
        [
            ["10.0.0.1", "198.51.100.41", "nhrp", "nhs"],
            ["10.0.0.3", "203.0.113.18", "up", "cached"],
            ["10.0.0.9", "-", "nhrp", "incomplete"],
        ]
    );
    assert_eq!(
        (&peers[1]["nat"], &peers[1]["up_for"], &peers[1]["received"]),
        (&json!(true), &json!(9), &json!(5))
    );
}

#[test]
fn sas_are_shown_by_direction() {
    let daemon = Daemon::start();
    let answer = daemon.show("sas");
    let sas = answer["sas"].as_array().unwrap();
    let lines: Vec<_> = sas
        .iter()
        .map(|sa| {
            (sa["direction"].as_str(), sa["spi"].as_str(), sa["state"].as_str(), sa["packets"].as_u64())
        })
        .collect();
    assert_eq!(
        lines,
        [
            (Some("in"), Some("00000001"), Some("active"), Some(10)),
            (Some("out"), Some("00000002"), Some("active"), Some(20)),
            (Some("in"), Some("3"), Some("standby"), Some(10)),
        ]
    );
    assert_eq!((&sas[0]["suite"], &sas[0]["mode"]), (&json!("aes256gcm128"), &json!("transport")));
    assert_eq!((&sas[0]["replayed"], &sas[1]["replayed"]), (&json!(3), &json!(0)));
}

#[test]
fn counters_of_workers_and_devices_are_put_together() {
    let daemon = Daemon::start();
    let ports = daemon.show("ports");
    assert_eq!((&ports["ports"][0]["rx_packets"], &ports["ports"][1]["rx_packets"]), (&json!(0), &json!(12)));
    assert_eq!((&ports["ports"][0]["link_up"], &ports["ports"][1]["link_up"]), (&Value::Null, &json!(true)));
    assert_eq!(ports["ports"][1]["rx_missed"], 11);
    let workers = daemon.show("workers");
    assert_eq!(
        (&workers["workers"][1]["cpu"], &workers["workers"][1]["busy_cycles"]),
        (&json!(3), &json!(1))
    );
    let encrypt = &workers["workers"][1]["stages"][4];
    assert_eq!((&encrypt["stage"], &encrypt["packets"]), (&json!("encrypt"), &json!(7)));
    let drops = daemon.show("drops");
    assert_eq!((&drops["drops"]["esp_replay"], &drops["punts"]["arp"]), (&json!(0), &json!(0)));
}

#[test]
fn every_topic_has_its_name() {
    let daemon = Daemon::start();
    for (topic, key) in [
        ("dmvpn", "peers"),
        ("nhrp", "tunnels"),
        ("ike", "sas"),
        ("sas", "sas"),
        ("routes", "routes"),
        ("ports", "ports"),
        ("neighbors", "neighbors"),
        ("drops", "drops"),
        ("workers", "workers"),
        ("config", "config"),
    ] {
        assert!(daemon.show(topic).get(key).is_some(), "{topic}");
    }
    let config = daemon.show("config");
    let config = config["config"].as_str().unwrap();
    assert!(config.contains("[vpn.ipsec.profile.NHRPVPN]") && !config.contains("SECRET"), "{config}");
}

#[test]
fn commands_reach_the_control_thread() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ask(r#"{"command":"rekey"}"#), json!({ "ok": { "peers": 2 } }));
    let asked: Vec<_> = daemon.asked.try_iter().collect();
    assert_eq!(asked, [Rekey::Esp, Rekey::Ike].map(|what| Request::Rekey { what, peer: None }));
    assert_eq!(
        daemon.ask(r#"{"command":"rekey","keys":"ike","peer":"10.0.0.1"}"#),
        json!({ "ok": { "peers": 1 } })
    );
    assert_eq!(daemon.asked.try_recv(), Ok(Request::Rekey { what: Rekey::Ike, peer: Some(HUB) }));
    assert_eq!(
        daemon.ask(r#"{"command":"clear","peer":"10.0.0.77"}"#),
        json!({ "error": "no peer has the address 10.0.0.77" })
    );
    assert_eq!(daemon.ask(r#"{"command":"clear"}"#), json!({ "ok": { "peers": 2 } }));
    assert_eq!(daemon.ask(r#"{"command":"reload"}"#), json!({ "ok": { "changed": ["system"] } }));
    assert_eq!(daemon.ask(r#"{"command":"reload"}"#), json!({ "error": "error: unknown key" }));
}

#[test]
fn what_is_no_request_is_refused() {
    let daemon = Daemon::start();
    for line in
        ["", "reload", "{}", r#"{"command":"dance"}"#, r#"{"command":"show","topic":"dmvpn","peer":1}"#]
    {
        let answer = daemon.ask(line);
        assert!(answer["error"].as_str().unwrap().starts_with("not a request: "), "{answer}");
    }
    // A line without an end is answered at the limit, and that is all.
    let mut client = daemon.connect();
    client.write_all(&vec![b'x'; usize::try_from(LONGEST_REQUEST).unwrap()]).unwrap();
    let mut answers = BufReader::new(client);
    assert!(read_answer(&mut answers)["error"].is_string());
    assert_eq!(answers.read_line(&mut String::new()).unwrap(), 0);
    assert!(daemon.show("routes")["routes"].is_array());
}

#[test]
fn one_connection_may_ask_often_and_idle_ones_do_no_harm() {
    let daemon = Daemon::start();
    let idle: Vec<_> = (1..THREADS).map(|_| daemon.connect()).collect();
    let mut client = daemon.connect();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    for _ in 0..3 {
        client.write_all(b"{\"command\":\"show\",\"topic\":\"sas\"}\n").unwrap();
        assert!(read_answer(&mut answers)["ok"]["sas"].is_array());
    }
    drop(idle);
}

#[test]
fn socket_is_for_its_owner_and_goes_with_the_daemon() {
    let daemon = Daemon::start();
    let path = daemon.path.clone();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Api::open(&path, observed(), || ()).map(drop).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AddrInUse);
    assert!(daemon.show("sas")["sas"].is_array(), "the first daemon goes on");
    drop(daemon);
    assert!(!path.exists());
}

#[test]
fn socket_of_the_dead_is_taken_over_and_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Api::open(&path, observed(), || ()).unwrap());
    fs::write(&path, "precious").unwrap();
    assert_eq!(Api::open(&path, observed(), || ()).map(drop).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

/// A control thread that is asked again while it answers, and again.
struct Besieged {
    ask: Sender<Question>,
    answered: usize,
}

impl Besieged {
    fn question(&self) -> Question {
        Question { ask: Ask::Request(Request::Show(Topic::Sas)), reply: channel::bounded(1).0 }
    }
}

impl Control for Besieged {
    fn request(&mut self, _: Request) -> Option<Response> {
        self.answered += 1;
        if self.answered < 10 * QUESTIONS {
            self.ask.send(self.question()).unwrap();
        }
        None
    }

    fn config(&self) -> &Config {
        unreachable!("nobody asks for it")
    }

    fn reload(&mut self) -> Result<ConfigDelta, String> {
        unreachable!("nobody asks for it")
    }
}

#[test]
fn who_asks_without_end_does_not_keep_the_control_thread() {
    let (ask, questions) = channel::bounded(QUESTIONS);
    let mut besieged = Besieged { ask, answered: 0 };
    besieged.ask.send(besieged.question()).unwrap();
    Questions(questions).answer(&mut besieged);
    assert_eq!(besieged.answered, QUESTIONS);
}

#[test]
fn silence_is_not_taken_for_the_end() {
    let (ask, questions) = channel::bounded(QUESTIONS);
    let (wake, awake) = mpsc::channel();
    let mut silent = Besieged { ask: ask.clone(), answered: 10 * QUESTIONS };
    let control = thread::spawn(move || {
        awake.recv().unwrap();
        Questions(questions).answer(&mut silent);
    });
    let desk = Desk { questions: ask, wake: Box::new(move || wake.send(()).unwrap()) };
    let outcome = desk.ask(Ask::Request(Request::Show(Topic::Sas))).map(drop);
    assert_eq!(outcome, Err("the control thread does not answer".to_owned()));
    control.join().unwrap();
}

#[test]
fn control_thread_that_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (_api, questions) = Api::open(&path, observed(), || ()).unwrap();
    let ask = || {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"{\"command\":\"reload\"}\n").unwrap();
        read_answer(&mut BufReader::new(client))
    };
    for _ in 0..QUESTIONS {
        assert_eq!(ask(), json!({ "error": "the control thread does not answer" }));
    }
    assert_eq!(ask(), json!({ "error": "too many requests at once" }));
    drop(questions);
    assert_eq!(ask(), json!({ "error": "the daemon is stopping" }));
}
