//! A host on a LAN: answers ARP and pings, and pings others.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dmvpn_wire::arp::{self, Operation};
use dmvpn_wire::icmp::{Echo, Message};
use dmvpn_wire::ipv4::{self, Fields};
use dmvpn_wire::{EtherType, IpProtocol, MacAddr, View, eth};

/// A host.
#[derive(Debug)]
pub(crate) struct Station {
    mac: MacAddr,
    address: Ipv4Addr,
    gateway: MacAddr,
    next: u16,
    /// Pings, by sequence number: when they were sent, and answered.
    pub(crate) pings: BTreeMap<u16, (u64, Option<u64>)>,
    /// Answers that came again.
    pub(crate) doubles: usize,
}

impl Station {
    pub(crate) fn new(mac: MacAddr, address: Ipv4Addr, gateway: MacAddr) -> Self {
        Self { mac, address, gateway, next: 0, pings: BTreeMap::new(), doubles: 0 }
    }

    /// An echo request, as a frame, with its sequence number.
    pub(crate) fn ping(&mut self, now: u64, to: Ipv4Addr) -> (u16, Vec<u8>) {
        let sequence = self.next;
        self.next += 1;
        self.pings.insert(sequence, (now, None));
        let echo = Echo { identifier: 7, sequence, data: &[0x5a; 56] };
        let mut message = [0; 64];
        let len = echo.emit_request(&mut message).unwrap_or_default();
        (sequence, self.packet(to, &message[..len]))
    }

    /// Takes a frame; perhaps answers.
    pub(crate) fn receive(&mut self, now: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let (header, payload) = eth::Header::view(frame).ok()?;
        match header.ether_type() {
            EtherType::ARP => {
                let (packet, operation) = arp::Packet::parse(payload).ok()?;
                let for_me = operation == Operation::Request
                    && packet.target() == self.address
                    && packet.sender() != self.address;
                for_me.then(|| self.frame(packet.sender_mac, EtherType::ARP, packet.reply(self.mac).octets()))
            }
            EtherType::IPV4 if header.destination == self.mac => {
                let packet = ipv4::Packet::parse(payload).ok()?;
                if packet.header.destination() != self.address {
                    return None;
                }
                match Message::parse(packet.payload).ok()? {
                    Message::EchoRequest(echo) => {
                        let mut message = vec![0; packet.payload.len()];
                        echo.emit_reply(&mut message)?;
                        Some(self.packet(packet.header.source(), &message))
                    }
                    Message::EchoReply(echo) => {
                        if let Some((_, answered)) = self.pings.get_mut(&echo.sequence) {
                            self.doubles += usize::from(answered.is_some());
                            answered.get_or_insert(now);
                        }
                        None
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn packet(&self, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
        let fields = Fields {
            tos: 0,
            identification: self.next,
            dont_fragment: true,
            ttl: 64,
            protocol: IpProtocol::ICMP,
            source: self.address,
            destination: to,
        };
        let header = ipv4::Header::new(&fields, message.len());
        let packet = [header.as_ref().map_or(&[][..], View::octets), message].concat();
        self.frame(self.gateway, EtherType::IPV4, &packet)
    }

    fn frame(&self, to: MacAddr, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
        [eth::Header::new(to, self.mac, ether_type).octets(), payload].concat()
    }
}
