//! Error indications (RFC 2332 section 5.2.7), ours and those of others.

use dmvpn_tables::PeerId;

use super::machine::{Machine, Received};
use super::packet::{Body, ErrorCode, ExtensionKind, HEADER, MessageKind, Packet};
use super::resolution::Question;
use super::{Event, ResolutionFailure, Routes};
use crate::time::Instant;

impl Machine {
    /// Tells `to` what is wrong with its packet, unless that is itself an error indication, and no more often
    /// than the limits allow.
    pub(super) fn complain(
        &mut self,
        now: Instant,
        to: PeerId,
        packet: &Packet,
        bytes: &[u8],
        code: ErrorCode,
        offset: u16,
    ) {
        let Some(own) = self.nbma else { return };
        if matches!(packet.body, Body::Error { .. }) || !self.spend(now, to) {
            return;
        }
        // The header and the addresses tell which packet it was; more would show a password to others.
        let quoted = bytes.get(..HEADER).unwrap_or(bytes).to_vec();
        let indication = Packet {
            hop_count: u8::MAX,
            source_nbma: own,
            source: self.config.address.ip(),
            destination: packet.source,
            body: Body::Error { code: code as u16, offset, packet: quoted },
            extensions: Vec::new(),
            extended: false,
        };
        match code {
            // Who could not authenticate must not get our password in the answer.
            ErrorCode::Authentication => self.send_bare(to, &indication),
            _ => self.send(to, indication),
        }
    }

    /// Whether `to` may be sent one more packet that it did not ask for.
    pub(super) fn spend(&mut self, now: Instant, to: PeerId) -> bool {
        let per_second = self.config.limits.unsolicited_per_second;
        let granted = self.paths.get_mut(to).is_some_and(|path| path.spend(per_second, now));
        if !granted {
            self.counters.limited += 1;
        }
        granted
    }

    pub(super) fn error_indicated(
        &mut self,
        now: Instant,
        received: Received<'_>,
        code: u16,
        offending: &[u8],
        routes: &dyn Routes,
    ) {
        if received.packet.destination != self.config.address.ip() {
            self.pass_on(now, received, routes);
            return;
        }
        self.event(Event::ErrorIndicated { peer: received.from, code, authentic: true });
        // Only the type and the request id of what it quotes are of use, and only if we wait for them.
        let (Some(kind), Some(id)) = (offending.get(17), offending.get(24..28)) else { return };
        let Ok(id) = <[u8; 4]>::try_from(id).map(u32::from_be_bytes) else { return };
        if *kind == MessageKind::ResolutionRequest as u8 {
            let why = ResolutionFailure::Error(code);
            match self.outstanding.get(&id).copied() {
                Some(Question::Target(target)) => self.resolution_failed(now, target, why),
                Some(Question::Proof(overlay)) => self.disprove(now, overlay, why),
                None => {}
            }
        }
    }

    /// The position of a compulsory extension that we do not know, in octets from the packet's beginning
    /// as it would be encoded (RFC 2332 section 5.3: who answers must know them all).
    pub(super) fn unknown_compulsory(&self, packet: &Packet) -> Option<u16> {
        let at = packet.extensions.iter().position(|extension| {
            extension.compulsory
                && matches!(extension.kind, ExtensionKind::Vendor | ExtensionKind::Unknown(_))
        })?;
        let mut before = packet.clone();
        before.extensions.truncate(at);
        let end = before.encode().map_or(0, |bytes| bytes.len().saturating_sub(4));
        Some(u16::try_from(end).unwrap_or(0))
    }
}
