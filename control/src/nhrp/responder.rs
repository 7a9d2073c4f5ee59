//! Resolution as the one who is asked, and as a station on the way (RFC 2332 sections 5.2.1, 5.2.2 and 5.3).

use std::net::Ipv4Addr;

use dmvpn_tables::PeerId;

use super::cache::Lease;
use super::machine::{ECHOED, Machine, Received};
use super::packet::{
    Body, Cie, ErrorCode, ExtensionKind, MAX_CIES, Message, MessageKind, Packet, Value, code, flags,
};
use super::resolution::is_underlay;
use super::{Kind, Misbehavior, Route, Routes};
use crate::time::Instant;

/// What we answer for is never wider than this: with a default route of our own, for one host only.
const WIDEST: u8 = 8;

impl Machine {
    pub(super) fn resolution_request(
        &mut self,
        now: Instant,
        received: Received<'_>,
        message: &Message,
        routes: &dyn Routes,
    ) {
        let Received { from, packet, bytes, .. } = received;
        if packet.source == self.config.address.ip() {
            self.misbehaved(from, Misbehavior::Loop);
            return;
        }
        if !self.may_speak_for(from, packet.source) {
            self.misbehaved(from, Misbehavior::ForeignAddress);
            return;
        }
        let destination = packet.destination;
        let route = match destination == self.config.address.ip() {
            true => Route::Local,
            // A station is where it is bound, even where no route says that it is on the tunnel.
            false if self.peer_of(destination).is_some() => {
                Route::Overlay { next_hop: destination, prefix: destination.into() }
            }
            false => routes.lookup(destination),
        };
        match route {
            Route::Local => self.answer(now, received, message, 32),
            Route::OffTunnel { prefix } => self.answer(now, received, message, prefix.prefix()),
            Route::Overlay { .. } => self.pass_on(now, received, routes),
            Route::None => self.complain(now, from, packet, bytes, ErrorCode::Unreachable, 0),
        }
    }

    fn answer(&mut self, now: Instant, received: Received<'_>, message: &Message, length: u8) {
        let Received { from, packet, bytes, .. } = received;
        if let Some(offset) = self.unknown_compulsory(packet) {
            self.complain(now, from, packet, bytes, ErrorCode::UnrecognizedExtension, offset);
            return;
        }
        // RFC 2332 section 5.2.0.1: a unique binding is one of a host.
        let prefix = match message.flags & flags::UNIQUE != 0 || length < WIDEST {
            true if message.flags & flags::UNIQUE != 0 => 255,
            true => 32,
            false => length,
        };
        let cie = Cie { prefix, ..self.own_cie(received) };
        let mut reply = self.reply_to(received, message, cie);
        if let Body::Message(message) = &mut reply.body {
            message.flags |= flags::AUTHORITATIVE | flags::DESTINATION_STABLE;
        }
        self.send(from, reply);
        self.learn_requester(now, received, message);
    }

    /// There is no such binding (RFC 2332 section 5.2.2, code 12).
    fn deny(&mut self, received: Received<'_>, message: &Message) {
        let reply = self.reply_to(received, message, Cie { code: code::NO_BINDING, ..Cie::default() });
        self.send(received.from, reply);
    }

    fn reply_to(&self, received: Received<'_>, message: &Message, cie: Cie) -> Packet {
        let mut reply = received.packet.clone();
        reply.hop_count = u8::MAX;
        reply.body = Body::Message(Message {
            kind: MessageKind::ResolutionReply,
            flags: message.flags & ECHOED,
            id: message.id,
            entries: vec![cie],
        });
        self.name_responder(received, &mut reply);
        if let Some(nat) = reply.extension_mut(ExtensionKind::Nat) {
            nat.value = Value::Entries(self.own_nat_entry());
        }
        reply
    }

    /// Who asks for us is going to talk to us: his request has his binding.
    fn learn_requester(&mut self, now: Instant, received: Received<'_>, message: &Message) {
        let Received { from, packet, own, .. } = received;
        let requester = packet.source;
        let Some(cie) = message.entries.first().filter(|cie| cie.holding_time > 0) else { return };
        if !self.is_station(requester) {
            return;
        }
        let lease = Lease::new(now, cie.holding_time);
        if !self.is_server(from) {
            // He came directly, so he is where the path leads; he has one or a few addresses.
            let Some(path) = self.paths.get(from) else { return };
            let full = path.bound.len() >= self.config.limits.entries_per_peer;
            if full && !path.bound.contains(&requester) {
                self.counters.limited += 1;
                return;
            }
            let nbma = path.nbma;
            self.learn(now, requester, nbma, packet.source_nbma, lease);
            return;
        }
        let public = packet.extension(ExtensionKind::Nat).and_then(|nat| {
            nat.cies().iter().find(|cie| cie.protocol == Some(requester)).and_then(|cie| cie.nbma)
        });
        let nbma = public.unwrap_or(packet.source_nbma);
        if !is_underlay(nbma) || nbma == own || Some(nbma) == self.public_nbma() {
            return;
        }
        // A binding in use is changed by an answer that we asked for, not by whoever asks us.
        if self.entries.get(&requester).is_some_and(|entry| entry.bound.is_some() && entry.nbma != nbma) {
            return;
        }
        self.learn(now, requester, nbma, packet.source_nbma, lease);
        // Behind a NAT we are reached only after we have sent something ourselves.
        if self.peer_of(requester).is_none() && self.may_be_natted() {
            self.connect(nbma, requester);
        }
    }

    /// Passes a packet on towards its destination, if it is a reply to its source (RFC 2332 section 5.3.2 and 5.3.3).
    pub(super) fn pass_on(&mut self, now: Instant, received: Received<'_>, routes: &dyn Routes) {
        let Received { from, packet, bytes, .. } = received;
        let message = match &packet.body {
            Body::Message(message) => Some(message),
            Body::Error { .. } | Body::Indication { .. } => None,
        };
        let is_reply = message.is_some_and(|message| message.kind.is_reply());
        let towards = if is_reply { packet.source } else { packet.destination };
        let foreign = match (message, is_reply) {
            (Some(message), true) => message
                .entries
                .iter()
                .filter_map(|cie| cie.protocol)
                .any(|protocol| !self.may_answer_for(from, protocol)),
            _ => !self.may_speak_for(from, packet.source) || self.peer_of(packet.source).is_none(),
        };
        // A station that is not bound here could not be answered, unless a server of ours knows it.
        if foreign && !self.is_server(from) {
            self.misbehaved(from, Misbehavior::ForeignAddress);
            return;
        }
        let next = self.next_station(from, towards, routes);
        let Some(next) = next.filter(|next| *next != from) else {
            match message {
                Some(message) if message.kind == MessageKind::ResolutionRequest => {
                    self.deny(received, message);
                }
                Some(message) if !message.kind.is_reply() => {
                    self.complain(now, from, packet, bytes, ErrorCode::Unreachable, 0);
                }
                _ => self.counters.refused += 1,
            }
            return;
        };
        if packet.hop_count <= 1 {
            self.counters.refused += 1;
            self.complain(now, from, packet, bytes, ErrorCode::HopCount, 0);
            return;
        }
        let record = if is_reply { ExtensionKind::ReverseTransit } else { ExtensionKind::ForwardTransit };
        let own = self.own_cie(received);
        let mut passed = packet.clone();
        passed.hop_count -= 1;
        if let Some(transit) = passed.extension_mut(record) {
            if transit.cies().iter().any(|cie| cie.protocol == own.protocol) {
                self.misbehaved(from, Misbehavior::Loop);
                self.complain(now, from, packet, bytes, ErrorCode::Loop, 0);
                return;
            }
            if transit.cies().len() < MAX_CIES {
                transit.push(own);
            }
        }
        // Who does not know that it is behind a NAT is helped by us, who see it.
        let subject = match message {
            Some(message) if is_reply => message.entries.first().and_then(|cie| cie.protocol),
            _ => Some(packet.source),
        };
        let seen = subject.and_then(|subject| {
            let entry = self.entries.get(&subject).filter(|entry| entry.nbma != entry.claimed)?;
            Some(Cie { prefix: 32, nbma: Some(entry.nbma), protocol: Some(subject), ..Cie::default() })
        });
        if let (Some(seen), Some(nat)) = (seen, passed.extension_mut(ExtensionKind::Nat))
            && nat.cies().is_empty()
        {
            nat.push(seen);
        }
        self.send(next, passed);
    }

    fn next_station(&self, from: PeerId, towards: Ipv4Addr, routes: &dyn Routes) -> Option<PeerId> {
        let routed = || match routes.lookup(towards) {
            Route::Overlay { next_hop, .. } => self.peer_of(next_hop),
            _ => None,
        };
        self.peer_of(towards).or_else(routed).or_else(|| {
            let up = self.servers.iter().filter(|server| server.up);
            up.filter_map(|server| self.peer_of(server.overlay)).find(|peer| *peer != from)
        })
    }

    /// Whether `from` may ask in the name of `overlay`: it has the address, or nobody does, or it is a server that
    /// passes on.
    pub(super) fn may_speak_for(&self, from: PeerId, overlay: Ipv4Addr) -> bool {
        self.is_server(from) || self.peer_of(overlay).is_none_or(|holder| holder == from)
    }

    /// Whether `from` may tell where `overlay` is: not if that is registered with us by another.
    fn may_answer_for(&self, from: PeerId, overlay: Ipv4Addr) -> bool {
        let registered = self.entries.get(&overlay).filter(|entry| entry.kind == Kind::Dynamic);
        overlay != self.config.address.ip()
            && registered.and_then(|entry| entry.peer()).is_none_or(|holder| holder == from)
    }
}
