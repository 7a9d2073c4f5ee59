//! The registration client: keeps us registered with every next hop server (RFC 2332 section 5.2.3).

use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_tables::PeerId;

use super::cache::Entry;
use super::machine::{Machine, Received, Timer};
use super::packet::{Body, Cie, Extension, ExtensionKind, Message, MessageKind, Packet, code, flags};
use super::{Event, Kind, Output};
use crate::time::Instant;

/// The first interval between two tries; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest interval between two tries; there is no last try.
const RETRY_MAX: Duration = Duration::from_secs(64);

/// After this many unanswered requests we doubt that the server is there.
const DOUBT: u32 = 3;

/// After this many unanswered requests (15 seconds) the server counts as lost.
const LOST: u32 = 4;

/// A next hop server that we register with.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) overlay: Ipv4Addr,
    pub(super) nbma: Ipv4Addr,
    /// It has accepted our registration, and answers.
    pub(super) up: bool,
    /// Until when the registration holds without being renewed.
    pub(super) registered_until: Option<Instant>,
    /// Our own address as it sees us, if that is another.
    pub(super) public: Option<Ipv4Addr>,
    /// Requests sent since the last answer.
    pub(super) unanswered: u32,
    /// Paths that failed or were lost since the last registration.
    failed_paths: u32,
    /// The id of the request under way: retries have the same (RFC 2332 section 5.2.3).
    id: Option<u32>,
}

impl Server {
    pub(super) fn new(overlay: Ipv4Addr, nbma: Ipv4Addr) -> Self {
        Self {
            overlay,
            nbma,
            up: false,
            registered_until: None,
            public: None,
            unanswered: 0,
            failed_paths: 0,
            id: None,
        }
    }
}

impl Machine {
    /// Our own address changed: what was registered is void.
    pub(super) fn restart_servers(&mut self, now: Instant) {
        for index in 0..self.servers.len() {
            self.server_down(index);
            let Some(server) = self.servers.get_mut(index) else { continue };
            server.public = None;
            server.unanswered = 0;
            server.failed_paths = 0;
            server.id = None;
            self.timers.cancel(Timer::Server(index));
            if self.nbma.is_some() {
                self.server_due(now, index);
            }
        }
    }

    /// The next step with a server: register with it, or make a path to it.
    pub(super) fn server_due(&mut self, now: Instant, index: usize) {
        let Some(own) = self.nbma else { return };
        let Some(server) = self.servers.get(index) else { return };
        let (overlay, nbma) = (server.overlay, server.nbma);
        match self.peer_of(overlay) {
            Some(peer) => self.register(now, index, own, peer),
            // Taking a path registers, in `server_reached`.
            None => {
                if !self.claim_path(now, overlay) {
                    self.connect(nbma, overlay);
                }
            }
        }
    }

    /// There is a path to a server.
    pub(super) fn server_reached(&mut self, now: Instant, overlay: Ipv4Addr) {
        let Some(index) = self.server_at(overlay) else { return };
        if let Some(server) = self.servers.get_mut(index) {
            server.unanswered = 0;
            server.id = None;
        }
        self.server_due(now, index);
    }

    /// The path to a server is gone: make another, at once the first time.
    pub(super) fn server_lost(&mut self, now: Instant, overlay: Ipv4Addr) {
        match self.server_at(overlay) {
            Some(index) => {
                self.server_down(index);
                self.retry_path(now, index);
            }
            None => self.forget(overlay),
        }
    }

    /// The path to the servers at `nbma` could not be made.
    pub(super) fn servers_unreachable(&mut self, now: Instant, nbma: Ipv4Addr) {
        for index in 0..self.servers.len() {
            let unreachable = self
                .servers
                .get(index)
                .is_some_and(|server| server.nbma == nbma && self.peer_of(server.overlay).is_none());
            if unreachable {
                self.retry_path(now, index);
            }
        }
    }

    pub(super) fn registration_reply(&mut self, now: Instant, received: Received<'_>, message: &Message) {
        let ours = self.config.address.ip();
        let asked = |server: &Server| {
            server.id == Some(message.id) && self.peer_of(server.overlay) == Some(received.from)
        };
        // A late copy of an answer that was taken has no request any more either.
        let Some(index) = self.servers.iter().position(asked) else {
            self.counters.refused += 1;
            return;
        };
        let public = received
            .packet
            .extension(ExtensionKind::Nat)
            .and_then(|nat| nat.cies().iter().find(|cie| cie.protocol == Some(ours)))
            .and_then(|cie| cie.nbma)
            .filter(|nbma| *nbma != received.own && !nbma.is_unspecified());
        let refusal = message.entries.iter().map(|cie| cie.code).find(|code| *code != code::SUCCESS);
        let Some(server) = self.servers.get_mut(index) else { return };
        server.id = None;
        if let Some(code) = refusal {
            // The next try is due already, later each time.
            let nhs = server.overlay;
            self.server_down(index);
            self.event(Event::RegistrationRefused { nhs, code });
            return;
        }
        let (nhs, nbma) = (server.overlay, server.nbma);
        let was_up = std::mem::replace(&mut server.up, true);
        let known_public = std::mem::replace(&mut server.public, public);
        server.unanswered = 0;
        server.failed_paths = 0;
        let holding = Duration::from_secs(self.config.nhrp.holding_time.into());
        server.registered_until = Some(now + holding);
        let refresh = self.jittered(holding / 3);
        self.timers.set(Timer::Server(index), now + refresh.max(RETRY_MIN));
        if !was_up {
            self.event(Event::NhsUp { nhs, nbma });
        }
        if let (Some(public), true) = (public, public != known_public) {
            self.event(Event::BehindNat { public });
        }
        self.learn_server(now, received);
    }

    /// A server may have another overlay address than we were told; its reply has the real one.
    fn learn_server(&mut self, now: Instant, received: Received<'_>) {
        let overlay = received.packet.destination;
        let Some(nbma) = self.paths.get(received.from).map(|path| path.nbma) else { return };
        if self.is_station(overlay) && !self.entries.contains_key(&overlay) {
            self.entries.insert(overlay, Entry::configured(Kind::Nhs, nbma));
            self.bind(now, overlay, received.from);
        }
    }

    fn register(&mut self, now: Instant, index: usize, own: Ipv4Addr, peer: PeerId) {
        let Some(server) = self.servers.get_mut(index) else { return };
        let id = *server.id.get_or_insert_with(|| {
            let id = self.next_registration_id;
            self.next_registration_id = id.wrapping_add(1);
            id
        });
        server.unanswered = server.unanswered.saturating_add(1);
        let (overlay, nbma, unanswered) = (server.overlay, server.nbma, server.unanswered);
        let wait = self.jittered(backoff(unanswered));
        self.timers.set(Timer::Server(index), now + wait);
        let packet = self.registration(own, id, overlay, nbma);
        self.send(peer, packet);
        if unanswered >= DOUBT {
            self.outputs.push_back(Output::Probe { peer });
        }
        if unanswered > LOST {
            self.server_down(index);
        }
    }

    /// A registration request as Cisco and FRR send it. The NAT extension names the server: a hub that sees a NAT
    /// between us adds what it sees.
    fn registration(&self, own: Ipv4Addr, id: u32, server: Ipv4Addr, server_nbma: Ipv4Addr) -> Packet {
        let client = Cie { prefix: 255, holding_time: self.config.nhrp.holding_time, ..Cie::default() };
        let nat = Cie { prefix: 32, nbma: Some(server_nbma), protocol: Some(server), ..Cie::default() };
        Packet {
            hop_count: u8::MAX,
            source_nbma: own,
            source: self.config.address.ip(),
            destination: server,
            body: Body::Message(Message {
                kind: MessageKind::RegistrationRequest,
                flags: flags::REGISTRATION_UNIQUE | flags::NAT,
                id,
                entries: vec![client],
            }),
            extensions: vec![
                Extension::entries(ExtensionKind::Responder, Vec::new()),
                Extension::entries(ExtensionKind::ForwardTransit, Vec::new()),
                Extension::entries(ExtensionKind::ReverseTransit, Vec::new()),
                Extension::entries(ExtensionKind::Nat, vec![nat]),
            ],
            extended: true,
        }
    }

    fn retry_path(&mut self, now: Instant, index: usize) {
        let Some(server) = self.servers.get_mut(index) else { return };
        let failures = server.failed_paths;
        server.failed_paths = failures.saturating_add(1);
        let wait = match failures {
            0 => Duration::ZERO,
            _ => self.jittered(backoff(failures)),
        };
        self.timers.set(Timer::Server(index), now + wait);
    }

    fn server_down(&mut self, index: usize) {
        let Some(server) = self.servers.get_mut(index) else { return };
        server.registered_until = None;
        if std::mem::replace(&mut server.up, false) {
            let (nhs, nbma) = (server.overlay, server.nbma);
            self.event(Event::NhsDown { nhs, nbma });
        }
    }

    fn server_at(&self, overlay: Ipv4Addr) -> Option<usize> {
        self.servers.iter().position(|server| server.overlay == overlay)
    }
}

/// The interval after the `tries`th try, counted from 1: 1, 2, 4 ... 64 seconds.
fn backoff(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(6);
    (RETRY_MIN * (1 << doublings)).min(RETRY_MAX)
}
