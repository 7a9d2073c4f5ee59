//! ICMP (RFC 792): what this box answers itself, and what it tells senders of packets it can not forward.

use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_wire::icmp::{self, Message, Problem};
use dmvpn_wire::ipv4::{self, Fields};
use dmvpn_wire::{IpProtocol, View};

use crate::limit::RateLimit;
use crate::time::Instant;

/// TTL of answers: the assigned default (RFC 1700).
const TTL: u8 = 64;
/// Errors: one per interval after a burst (RFC 1812 section 4.3.2.8).
const INTERVAL: Duration = Duration::from_millis(1);
const BURST: u32 = 100;

/// The answer to an IPv4 packet, if that is an echo request; fragments are not put together here.
pub fn echo_reply(request: &[u8]) -> Option<Vec<u8>> {
    let packet = ipv4::Packet::parse(request).ok()?;
    let header = packet.header;
    if header.protocol() != IpProtocol::ICMP || header.is_fragment() || header.destination().is_multicast() {
        return None;
    }
    let Ok(Message::EchoRequest(echo)) = Message::parse(packet.payload) else { return None };
    let fields = Fields {
        tos: header.tos(),
        identification: header.identification(),
        dont_fragment: false,
        ttl: TTL,
        protocol: IpProtocol::ICMP,
        source: header.destination(),
        destination: header.source(),
    };
    let mut reply = ipv4::Header::new(&fields, packet.payload.len())?.octets().to_vec();
    let header_len = reply.len();
    reply.resize(header_len + packet.payload.len(), 0);
    echo.emit_reply(reply.get_mut(header_len..)?)?;
    Some(reply)
}

/// Makes error messages, at a limited rate.
#[derive(Debug)]
pub struct Errors {
    limit: RateLimit,
}

impl Errors {
    /// Tells the sender of `offending` of a problem with it; a whole IPv4 packet from `source`. `None`
    /// where the rate is exceeded, or where no error may be sent.
    pub fn about(
        &mut self,
        now: Instant,
        problem: Problem,
        source: Ipv4Addr,
        offending: &[u8],
    ) -> Option<Vec<u8>> {
        let mut message = vec![0; icmp::MAX_ERROR];
        let len = icmp::emit_error(problem, source, offending, &mut message)?;
        message.truncate(len);
        self.limit.allow(now).then_some(message)
    }
}

impl Default for Errors {
    fn default() -> Self {
        Self { limit: RateLimit::new(INTERVAL, BURST) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmvpn_wire::icmp::{Echo, Unreachable};

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
    const BOX: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn echo_request(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut message = [0; 64];
        let echo = Echo { identifier: 7, sequence: 9, data: b"abcdef" };
        let len = echo.emit_request(&mut message).unwrap();
        let fields = Fields {
            tos: 0x10,
            identification: 77,
            dont_fragment: true,
            ttl: 3,
            protocol: IpProtocol::ICMP,
            source,
            destination,
        };
        let mut packet = ipv4::Header::new(&fields, len).unwrap().octets().to_vec();
        packet.extend_from_slice(&message[..len]);
        packet
    }

    #[test]
    fn an_echo_request_is_answered() {
        let reply = echo_reply(&echo_request(HOST, BOX)).unwrap();
        let packet = ipv4::Packet::parse(&reply).unwrap();
        assert_eq!((packet.header.source(), packet.header.destination()), (BOX, HOST));
        assert_eq!(packet.header.ttl(), 64);
        let expected = Echo { identifier: 7, sequence: 9, data: b"abcdef" };
        assert_eq!(Message::parse(packet.payload), Ok(Message::EchoReply(expected)));
        assert_eq!(echo_reply(&reply), None, "an answer is not answered");
    }

    #[test]
    fn errors_are_limited_and_never_about_errors() {
        let mut errors = Errors::default();
        let now = Instant::ZERO;
        let offending = echo_request(HOST, Ipv4Addr::new(10, 9, 8, 7));
        let problem = Problem::Unreachable(Unreachable::HOST);
        let error = errors.about(now, problem, BOX, &offending).unwrap();
        assert_eq!(errors.about(now, problem, BOX, &error), None);
        let sent = (0..1000).filter(|_| errors.about(now, problem, BOX, &offending).is_some()).count();
        assert_eq!(sent, BURST as usize - 1);
    }
}
