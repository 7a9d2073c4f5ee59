//! The registration server: takes clients' registrations (RFC 2332 sections 5.2.3 and 5.2.4).
//!
//! What is bound is never what a client claims to be its underlay address, but where its packets come from.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::cache::{Entry, Lease};
use super::machine::{Machine, Received, Timer};
use super::packet::{Body, Cie, ErrorCode, ExtensionKind, Message, MessageKind, Value, code, flags};
use super::{Event, Kind, Output};
use crate::time::Instant;

impl Machine {
    pub(super) fn registration_request(&mut self, now: Instant, received: Received<'_>, message: &Message) {
        let Received { from, packet, bytes, .. } = received;
        let ours = self.config.address.ip();
        // A client that does not know us yet names itself (FRR, Cisco) or everybody (OpenNHRP).
        let for_us = packet.destination == ours
            || packet.destination == packet.source
            || packet.destination == self.config.address.broadcast();
        if let Some(offset) = self.unknown_compulsory(packet) {
            self.complain(now, from, packet, bytes, ErrorCode::UnrecognizedExtension, offset);
            return;
        }
        let Some(observed) = self.paths.get(from).map(|path| path.nbma) else { return };
        let mut reply = packet.clone();
        let mut entries = message.entries.clone();
        for cie in &mut entries {
            cie.code = match for_us {
                true => self.register_client(now, received, message.flags, cie, observed),
                false => code::PROHIBITED,
            };
        }
        reply.hop_count = u8::MAX;
        reply.destination = ours;
        reply.body = Body::Message(Message {
            kind: MessageKind::RegistrationReply,
            flags: message.flags & (flags::REGISTRATION_UNIQUE | flags::NAT),
            id: message.id,
            entries,
        });
        self.name_responder(received, &mut reply);
        if packet.source_nbma != observed
            && let Some(nat) = reply.extension_mut(ExtensionKind::Nat)
        {
            // The client learns its public address from the second entry.
            nat.push(Cie {
                prefix: 32,
                nbma: Some(observed),
                protocol: Some(packet.source),
                ..Cie::default()
            });
        }
        self.send(from, reply);
    }

    /// One entry of a request; the code that it gets in the reply.
    fn register_client(
        &mut self,
        now: Instant,
        received: Received<'_>,
        wanted: u16,
        cie: &Cie,
        observed: Ipv4Addr,
    ) -> u8 {
        let Received { from, packet, .. } = received;
        let overlay = packet.source;
        // A client registers itself, one address, and nothing behind it.
        if cie.protocol.is_some_and(|protocol| protocol != overlay)
            || cie.prefix_length() != Some(32)
            || !self.is_station(overlay)
        {
            return code::PROHIBITED;
        }
        let holder = self.entries.get(&overlay);
        if holder.is_some_and(|entry| matches!(entry.kind, Kind::Static | Kind::Nhs)) {
            // Configured is stronger. The station itself may say what we know already.
            return match holder.and_then(Entry::peer) == Some(from) {
                true => code::SUCCESS,
                false => code::PROHIBITED,
            };
        }
        let registered = holder.filter(|entry| entry.kind == Kind::Dynamic);
        if let Some(entry) = registered
            && let Some(holder) = entry.peer().filter(|peer| *peer != from)
        {
            // The same station with a new SA: from the same address and, behind a NAT, claiming the same one.
            let same = entry.nbma == observed && entry.claimed == packet.source_nbma;
            if entry.unique && !same {
                self.event(Event::Conflict { overlay, holder, claimant: from });
                self.outputs.push_back(Output::Probe { peer: holder });
                return code::ALREADY_REGISTERED;
            }
        }
        if cie.holding_time == 0 {
            if registered.and_then(Entry::peer) == Some(from) {
                self.forget(overlay);
            }
            return code::SUCCESS;
        }
        let limits = self.config.limits;
        if registered.is_none() {
            let of_peer = self.paths.get(from).map_or(0, |path| path.bound.len());
            if of_peer >= limits.entries_per_peer || self.learned() >= limits.entries {
                self.event(Event::LimitReached);
                return code::RESOURCES;
            }
        }
        let fresh = registered.and_then(Entry::peer) != Some(from);
        let lease = Lease::new(now, cie.holding_time);
        let entry = self.entries.entry(overlay).or_insert_with(|| Entry {
            shortcuts: BTreeSet::new(),
            ..Entry::configured(Kind::Dynamic, observed)
        });
        // What was learned by resolution gives way: bind it anew, as a registration.
        if entry.kind != Kind::Dynamic {
            entry.kind = Kind::Dynamic;
            entry.bound = entry.bound.filter(|(peer, _)| *peer != from);
            self.waiting.remove(&(entry.nbma, overlay));
        }
        entry.claimed = packet.source_nbma;
        entry.unique = wanted & flags::REGISTRATION_UNIQUE != 0;
        entry.lease = Some(lease);
        if entry.bound.is_none() {
            entry.nbma = observed;
        }
        self.timers.set(Timer::Entry(overlay), lease.expires());
        if fresh {
            self.bind(now, overlay, from);
            self.event(Event::Registered { overlay, nbma: observed });
        }
        code::SUCCESS
    }

    /// Fills the responder extension of a reply, if its request asked for it (RFC 2332 section 5.3.1).
    pub(super) fn name_responder(&self, received: Received<'_>, reply: &mut super::packet::Packet) {
        let own = self.own_cie(received);
        if let Some(responder) = reply.extension_mut(ExtensionKind::Responder) {
            responder.value = Value::Entries(vec![own]);
        }
    }

    /// Our own binding, as it is put into replies and transit records.
    pub(super) fn own_cie(&self, received: Received<'_>) -> Cie {
        Cie {
            holding_time: self.config.nhrp.holding_time,
            nbma: Some(received.own),
            protocol: Some(self.config.address.ip()),
            ..Cie::default()
        }
    }
}
