//! Capture files in and out: bytes arrive as they are, and a packet that takes several mbufs is refused.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use dmvpn_dataplane::frame::{Buffer, Frame};
use dmvpn_dataplane::link::Link;
use dmvpn_dpdk::{Device, Eal, EalOptions, Memory, Mempool, Port, PortOptions, Spread};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

const BUFFERS: u32 = 511;

#[test]
fn packets_pass_unchanged_and_chains_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
    let mut packets: Vec<Vec<u8>> =
        (0..200).map(|i: usize| (0..60 + 7 * i).map(|byte| (byte * i).to_le_bytes()[0]).collect()).collect();
    let giant = vec![0x55; 5000];
    packets.insert(70, giant.clone());
    write(&input, &packets);

    let device: Device =
        format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display()).parse().unwrap();
    let eal = Eal::init(&EalOptions { memory: Memory::Ordinary(64), devices: vec![device.clone()] }).unwrap();
    let pool = Mempool::new(&eal, BUFFERS, 1500).unwrap();
    let port =
        Port::new(&device, &pool, PortOptions { queues: 1, mtu: 1500, spread: Spread::Addresses }).unwrap();
    let (port, mut queues) = port.start().unwrap();

    let mut frame = Frame::new();
    let mut received = 0;
    while received < 200 {
        queues[0].rx(&mut frame);
        assert!(!frame.is_empty(), "no more after {received}");
        received += frame.len();
        for packet in &mut frame {
            packet.prepend(1).unwrap()[0] = 0xaa;
        }
        queues[0].tx(&mut frame);
        assert!(frame.is_empty());
    }
    assert_eq!(port.stats().rx_chained, 1);
    assert_eq!(pool.available(), BUFFERS);
    drop((port, queues));

    packets.retain(|packet| *packet != giant);
    let expected: Vec<_> = packets.iter().map(|packet| [&[0xaa], &packet[..]].concat()).collect();
    assert_eq!(read(&output), expected);
}

fn write(path: &Path, packets: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        writer.write_packet(&PcapPacket::new(Duration::ZERO, length, packet)).unwrap();
    }
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        packets.push(packet.unwrap().data.into_owned());
    }
    packets
}
