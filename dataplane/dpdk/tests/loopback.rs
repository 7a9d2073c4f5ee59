//! A device that receives what it sent: who owns what, and what happens when its ring is full.

use dmvpn_dataplane::frame::{Buffer, FRAME_SIZE, Frame, Pool};
use dmvpn_dataplane::link::Link;
use dmvpn_dpdk::{Device, Eal, EalOptions, Mbuf, Memory, Mempool, Port, PortOptions, Queue, Spread};

const BUFFERS: u32 = 4095;

#[test]
fn a_full_ring_takes_a_part_and_leaves_the_rest_in_order() {
    let device: Device = "net_ring0".parse().unwrap();
    let eal = Eal::init(&EalOptions { memory: Memory::Ordinary(64), devices: vec![device.clone()] }).unwrap();
    let pool = Mempool::new(&eal, BUFFERS, 1500).unwrap();
    let port =
        Port::new(&device, &pool, PortOptions { queues: 1, mtu: 1500, spread: Spread::Addresses }).unwrap();
    let (port, mut queues) = port.start().unwrap();
    let queue = &mut queues[0];

    let mut serial = 0;
    let mut frame: Frame<Mbuf> = Frame::new();
    let accepted = loop {
        fill(&mut frame, &pool, &mut serial);
        queue.tx(&mut frame);
        if !frame.is_empty() {
            break serial - u32::try_from(frame.len()).unwrap();
        }
    };
    let left: Vec<_> = frame.iter().map(number).collect();
    assert_eq!(left, (accepted..serial).collect::<Vec<_>>(), "what was not sent stays, in order");
    assert_eq!(pool.available(), BUFFERS - serial, "a packet is on the ring or in the frame, never lost");
    queue.tx(&mut frame);
    assert_eq!(frame.len(), left.len(), "a full ring takes nothing");
    drop(frame);

    let mut arrived = receive_all(queue);
    assert_eq!(arrived, (0..accepted).collect::<Vec<_>>());
    assert_eq!(pool.available(), BUFFERS);

    // A frame that holds packets already is filled up, not overwritten.
    let mut frame = Frame::new();
    fill(&mut frame, &pool, &mut serial);
    queue.tx(&mut frame);
    fill(&mut frame, &pool, &mut serial);
    frame.truncate(FRAME_SIZE - 5);
    let kept = number(&frame[0]);
    queue.rx(&mut frame);
    assert_eq!((frame.len(), number(&frame[0])), (FRAME_SIZE, kept));
    arrived.clear();
    arrived.extend(frame.iter().skip(FRAME_SIZE - 5).map(number));
    drop(frame);
    arrived.extend(receive_all(queue));
    assert_eq!(arrived, (serial - 128..serial - 64).collect::<Vec<_>>());
    assert_eq!(pool.available(), BUFFERS);
    assert_eq!(port.stats().rx_packets, u64::from(accepted) + 64);
}

fn fill(frame: &mut Frame<Mbuf>, pool: &Mempool, serial: &mut u32) {
    let mut pool = pool.clone();
    while !frame.is_full() {
        let mut packet = pool.alloc().unwrap();
        packet.append(60).unwrap()[..4].copy_from_slice(&serial.to_be_bytes());
        *serial += 1;
        frame.push(packet);
    }
}

fn receive_all(queue: &mut Queue) -> Vec<u32> {
    let mut all = Vec::new();
    loop {
        let mut frame = Frame::new();
        queue.rx(&mut frame);
        if frame.is_empty() {
            return all;
        }
        all.extend(frame.iter().map(number));
    }
}

fn number(packet: &Mbuf) -> u32 {
    u32::from_be_bytes(packet.bytes()[..4].try_into().unwrap())
}
