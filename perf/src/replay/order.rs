//! Whether packets leave in the order in which they came: by the sequence numbers of ESP, or by their marks.

use std::collections::HashMap;
use std::ops::AddAssign;

use dmvpn_wire::{IpProtocol, View, esp, eth, ipv4, udp};

use crate::marked::Mark;

/// Looks at every packet that leaves by a port.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The last number of each flow.
    last: HashMap<Flow, u32>,
    seen: Seen,
}

/// What has been seen. Numbers of a flow count up by one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Flows: SAs, or plain flows with marks.
    pub(crate) flows: u64,
    /// Packets with a number.
    pub(crate) numbered: u64,
    /// Numbers left out.
    pub(crate) gaps: u64,
    /// Packets after one with the same or a higher number.
    pub(crate) out_of_order: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Flow {
    Sa(u32),
    Marked(u32),
}

impl Order {
    /// Takes note of an Ethernet frame.
    pub(crate) fn see(&mut self, frame: &[u8]) {
        let Some((flow, number)) = numbered(frame) else { return };
        self.seen.numbered += 1;
        let last = self.last.entry(flow).or_insert_with(|| {
            self.seen.flows += 1;
            0
        });
        match number.checked_sub(*last) {
            None | Some(0) => self.seen.out_of_order += 1,
            Some(step) => {
                self.seen.gaps += u64::from(step - 1);
                *last = number;
            }
        }
    }

    /// Plain flows begin anew; SAs go on.
    pub(crate) fn begin_anew(&mut self) {
        for (flow, last) in &mut self.last {
            if matches!(flow, Flow::Marked(_)) {
                *last = 0;
            }
        }
    }

    /// What has been seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.flows += other.flows;
        self.numbered += other.numbered;
        self.gaps += other.gaps;
        self.out_of_order += other.out_of_order;
    }
}

/// The flow of a packet and its number in there.
fn numbered(frame: &[u8]) -> Option<(Flow, u32)> {
    let (_, packet) = eth::Header::view(frame).ok()?;
    let (header, _) = ipv4::Header::view(packet).ok()?;
    let payload = packet.get(header.header_len()..)?;
    let sa = |bytes| {
        let (esp, _) = esp::Header::view(bytes).ok()?;
        Some((Flow::Sa(esp.spi()), esp.sequence()))
    };
    match header.protocol() {
        IpProtocol::ESP => sa(payload),
        IpProtocol::UDP => {
            let (udp, content) = udp::Header::view(payload).ok()?;
            if udp.source_port() == udp::IKE_NAT {
                return sa(content);
            }
            Mark::read(packet).map(|mark| (Flow::Marked(mark.flow), mark.number))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use dmvpn_wire::MacAddr;

    use super::*;
    use crate::marked;

    #[test]
    fn counts_gaps_and_disorder_by_flow() {
        let mut order = Order::default();
        let mut see = |flow, number| {
            let mark = Mark { flow, number };
            let packet = marked::packet([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 40, mark).unwrap();
            order.see(&marked::frame(MacAddr::BROADCAST, MacAddr::BROADCAST, &packet));
        };
        for (flow, number) in [(1, 1), (2, 1), (1, 2), (2, 4), (2, 3), (1, 2), (2, 5)] {
            see(flow, number);
        }
        assert_eq!(order.seen(), Seen { flows: 2, numbered: 7, gaps: 2, out_of_order: 2 });
        order.begin_anew();
        let packet =
            marked::packet([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 40, Mark { flow: 2, number: 1 });
        order.see(&marked::frame(MacAddr::BROADCAST, MacAddr::BROADCAST, &packet.unwrap()));
        assert_eq!(order.seen(), Seen { flows: 2, numbered: 8, gaps: 2, out_of_order: 2 });
        order.see(b"no packet at all");
        assert_eq!(order.seen().numbered, 8);
    }
}
