//! Purging (RFC 2332 sections 5.2.5 and 5.2.6): a station takes back what was learned of it.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::Kind;
use super::cache::Entry;
use super::machine::{Machine, Received};
use super::packet::{
    Body, Cie, ErrorCode, Extension, ExtensionKind, Message, MessageKind, Packet, code, flags,
};
use crate::time::Instant;

impl Machine {
    /// We are going: takes back our own binding from the servers and from every station that may send to us
    /// directly. Best effort: nobody answers us any more.
    pub fn shut_down(&mut self) {
        let Some(own) = self.nbma else { return };
        let told: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.kind, Kind::Nhs | Kind::Cached))
            .filter_map(|(overlay, entry)| Some((*overlay, entry.peer()?)))
            .collect();
        for (station, peer) in told {
            let id = self.next_registration_id;
            self.next_registration_id = id.wrapping_add(1);
            let ours = self.config.address.ip();
            let client = Cie { prefix: 32, protocol: Some(ours), ..Cie::default() };
            let request = Packet {
                hop_count: u8::MAX,
                source_nbma: own,
                source: ours,
                destination: station,
                body: Body::Message(Message {
                    kind: MessageKind::PurgeRequest,
                    flags: flags::NO_REPLY,
                    id,
                    entries: vec![client],
                }),
                extensions: vec![
                    Extension::entries(ExtensionKind::Responder, Vec::new()),
                    Extension::entries(ExtensionKind::ForwardTransit, Vec::new()),
                    Extension::entries(ExtensionKind::ReverseTransit, Vec::new()),
                ],
                extended: true,
            };
            self.send(peer, request);
        }
    }

    pub(super) fn purge_request(&mut self, now: Instant, received: Received<'_>, message: &Message) {
        let Received { from, packet, bytes, .. } = received;
        if let Some(offset) = self.unknown_compulsory(packet) {
            self.complain(now, from, packet, bytes, ErrorCode::UnrecognizedExtension, offset);
            return;
        }
        for cie in &message.entries {
            self.purge(received, cie);
        }
        if message.flags & flags::NO_REPLY != 0 {
            return;
        }
        let mut reply = packet.clone();
        reply.hop_count = u8::MAX;
        // RFC 2332 section 5.2.6: the same entries, and so even if nothing was there.
        let entries = message.entries.iter().map(|cie| Cie { code: code::SUCCESS, ..*cie }).collect();
        reply.body = Body::Message(Message {
            kind: MessageKind::PurgeReply,
            flags: message.flags,
            id: message.id,
            entries,
        });
        self.name_responder(received, &mut reply);
        self.send(from, reply);
    }

    /// Removes what one entry names: of a client, what is its own; of a server, anything learned by resolution.
    fn purge(&mut self, received: Received<'_>, cie: &Cie) {
        let (Some(protocol), Some(length)) = (cie.protocol, cie.prefix_length()) else { return };
        let Ok(class) = Ipv4Network::new(protocol, length) else { return };
        let server = self.is_server(received.from);
        let nbma = cie.nbma.filter(|nbma| !nbma.is_unspecified());
        let named = |overlay: Ipv4Addr, entry: &Entry| {
            let own = entry.peer() == Some(received.from);
            let kind = match entry.kind {
                Kind::Static | Kind::Nhs => false,
                Kind::Dynamic => own,
                Kind::Cached => own || server,
            };
            kind && class.contains(overlay)
                && nbma.is_none_or(|nbma| nbma == entry.nbma || nbma == entry.claimed)
        };
        let shortcuts: Vec<_> = self
            .shortcuts
            .iter()
            .filter(|(prefix, shortcut)| {
                (class.contains(prefix.ip()) || prefix.contains(class.ip()))
                    && (server || self.peer_of(shortcut.next_hop) == Some(received.from))
            })
            .map(|(prefix, _)| *prefix)
            .collect();
        let candidates: Vec<_> = match server {
            true => self.entries.keys().copied().collect(),
            false => {
                self.paths.get(received.from).into_iter().flat_map(|path| &path.bound).copied().collect()
            }
        };
        for overlay in candidates {
            if self.entries.get(&overlay).is_some_and(|entry| named(overlay, entry)) {
                self.forget(overlay);
            }
        }
        for prefix in shortcuts {
            self.forget_shortcut(prefix);
        }
    }
}
