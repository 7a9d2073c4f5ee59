//! Traffic indications (Cisco's packet type 8): "what you send by me could go a shorter way".

use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_tables::PeerId;

use super::machine::{Machine, Received};
use super::packet::{Body, Extension, ExtensionKind, Packet};
use super::{Misbehavior, Route, Routes};
use crate::time::Instant;

/// The same peer is told of the same destination at most this often.
const INTERVAL: Duration = Duration::from_secs(4);

/// How much of the packet is quoted, in octets: as much as an ICMP error would, and the GRE header.
const QUOTED: usize = 68;

impl Machine {
    /// Tells `from`, whose packet left through the tunnel again, of the shorter way.
    pub(super) fn indicate(&mut self, now: Instant, from: PeerId, quoted: &[u8], routes: &dyn Routes) {
        let Some(own) = self.nbma.filter(|_| self.config.nhrp.redirect) else { return };
        let Some((source, destination)) = addresses(quoted) else { return };
        let Route::Overlay { next_hop, .. } = routes.lookup(destination) else { return };
        // Shorter is only a way to another station; it knows that station by us.
        if self.peer_of(next_hop).is_none_or(|peer| peer == from) {
            return;
        }
        let key = (from, destination);
        if self.redirects.get(&key).is_some_and(|last| now.since(*last) < INTERVAL) {
            return;
        }
        if self.redirects.len() >= self.config.limits.redirects {
            self.redirects.retain(|_, last| now.since(*last) < INTERVAL);
            if self.redirects.len() >= self.config.limits.redirects {
                self.counters.limited += 1;
                return;
            }
        }
        if !self.spend(now, from) {
            return;
        }
        self.redirects.insert(key, now);
        let indication = Packet {
            hop_count: u8::MAX,
            source_nbma: own,
            source: self.config.address.ip(),
            destination: source,
            body: Body::Indication { code: 0, packet: quoted.get(..QUOTED).unwrap_or(quoted).to_vec() },
            extensions: vec![
                Extension::entries(ExtensionKind::ForwardTransit, Vec::new()),
                Extension::entries(ExtensionKind::ReverseTransit, Vec::new()),
                Extension::entries(ExtensionKind::Nat, Vec::new()),
            ],
            extended: true,
        };
        self.send(from, indication);
    }

    /// Somebody tells us of a shorter way for a packet that came by us.
    pub(super) fn indicated(
        &mut self,
        now: Instant,
        received: Received<'_>,
        quoted: &[u8],
        routes: &dyn Routes,
    ) {
        if !self.config.nhrp.shortcut {
            return;
        }
        let Some((source, destination)) = addresses(quoted) else {
            self.misbehaved(received.from, Misbehavior::Malformed);
            return;
        };
        let carries = match routes.lookup(destination) {
            Route::Overlay { next_hop, .. } => self.peer_of(next_hop) == Some(received.from),
            _ => false,
        };
        let ours = matches!(routes.lookup(source), Route::Local | Route::OffTunnel { .. });
        if !ours || !(carries || self.is_server(received.from)) {
            self.misbehaved(received.from, Misbehavior::ForeignRedirect);
            return;
        }
        self.resolve_destination(now, destination, routes);
    }
}

/// Source and destination of a quoted IPv4 packet, if a shortcut between them makes sense.
fn addresses(quoted: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header: &[u8; 20] = quoted.first_chunk()?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let station = |address: Ipv4Addr| {
        !(address.is_multicast()
            || address.is_broadcast()
            || address.is_unspecified()
            || address.is_loopback())
    };
    (station(source) && station(destination)).then_some((source, destination))
}
