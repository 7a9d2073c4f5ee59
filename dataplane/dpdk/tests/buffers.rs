//! Packet buffers, pools and what a port refuses. (One EAL per process, so one test per file.)

use std::thread;
use std::time::{Duration, Instant};

use dmvpn_dataplane::frame::{Buffer, FRAME_SIZE, Frame, HEADROOM, Pool, TAILROOM};
use dmvpn_dataplane::link::Link;
use dmvpn_dpdk::{Clock, Device, Eal, EalOptions, Error, Memory, Mempool, Port, PortOptions, Spread};

const BUFFERS: u32 = 1023;

#[test]
fn buffers_and_ports() {
    let device: Device = "net_null0".parse().unwrap();
    let absent: Device = "net_null7".parse().unwrap();
    let options = EalOptions { memory: Memory::Ordinary(64), devices: vec![device.clone()] };
    let cpus = core_affinity::get_core_ids().unwrap();
    let eal = Eal::init(&options).unwrap();
    assert_eq!(core_affinity::get_core_ids().unwrap(), cpus, "the thread may run where it ran before");
    assert!(matches!(Eal::init(&options), Err(Error::Again)));
    assert!(Eal::version().contains("DPDK"));

    the_clock_counts_microseconds(Clock::new(&eal));

    let pool = Mempool::new(&eal, BUFFERS, 1500).unwrap();
    buffers_grow_within_their_room(&pool);
    the_pool_is_bounded_and_gets_everything_back(&pool);
    threads_share_it(&eal, &pool);

    let port =
        |device, queues, mtu| Port::new(device, &pool, PortOptions { queues, mtu, spread: Spread::Flows });
    assert!(matches!(port(&absent, 1, 1500), Err(Error::NoDevice(_))));
    let (started, mut queues) = port(&device, 2, 1500).unwrap().start().unwrap();
    assert!(matches!(port(&device, 1, 1500), Err(Error::Taken(_))));
    assert_eq!((queues.len(), started.mtu()), (2, 1500));
    assert!(started.link_is_up());

    // A null device makes packets on receive, and accepts everything.
    let mut frame = Frame::new();
    queues[1].rx(&mut frame);
    assert_eq!(frame.len(), FRAME_SIZE);
    queues[1].rx(&mut frame);
    assert_eq!(frame.len(), FRAME_SIZE, "a full frame takes no more");
    frame.truncate(10);
    assert_eq!(pool.available(), BUFFERS - 10);
    queues[0].tx(&mut frame);
    assert!(frame.is_empty());
    assert_eq!(pool.available(), BUFFERS);
    let stats = started.stats();
    assert_eq!((stats.rx_packets, stats.tx_packets, stats.rx_chained), (FRAME_SIZE as u64, 10, 0));
}

fn the_clock_counts_microseconds(clock: Clock) {
    let (begin, reference) = (clock.cycles(), Instant::now());
    thread::sleep(Duration::from_millis(50));
    let (measured, expected) = (clock.micros(clock.cycles() - begin), reference.elapsed().as_micros());
    assert!(u128::from(measured).abs_diff(expected) < expected / 50, "{measured} us, not {expected}");
    assert!(clock.micros(u64::MAX) > clock.micros(u64::MAX - (1 << 32)));
}

fn buffers_grow_within_their_room(pool: &Mempool) {
    let mut packet = pool.clone().alloc().unwrap();
    assert!(packet.is_empty());
    assert!(packet.headroom() >= HEADROOM && packet.tailroom() >= 1514 + TAILROOM);
    let (headroom, tailroom) = (packet.headroom(), packet.tailroom());

    packet.append(4).unwrap().copy_from_slice(&[3, 4, 5, 6]);
    packet.prepend(2).unwrap().copy_from_slice(&[1, 2]);
    assert_eq!(packet.bytes(), [1, 2, 3, 4, 5, 6]);
    assert_eq!((packet.headroom(), packet.tailroom()), (headroom - 2, tailroom - 4));
    assert!(packet.prepend(headroom - 1).is_none() && packet.append(tailroom - 3).is_none());
    assert!(packet.prepend(usize::MAX).is_none() && packet.append(65_536 + 1).is_none());
    assert_eq!(packet.bytes(), [1, 2, 3, 4, 5, 6], "a refusal changes nothing");
    packet.trim_front(1);
    packet.trim_back(2);
    assert_eq!(packet.bytes(), [2, 3, 4]);
    packet.trim_back(usize::MAX);
    assert!(packet.is_empty());

    assert_eq!(packet.prepend(packet.headroom()).unwrap().len(), headroom - 1);
    assert_eq!(packet.append(packet.tailroom()).unwrap().len(), tailroom + 1);
    assert_eq!((packet.headroom(), packet.tailroom()), (0, 0));
    // All of it is ours to write, and the meta data lies elsewhere.
    *packet.meta_mut() = Default::default();
    let before = format!("{:?}", packet.meta());
    packet.bytes_mut().fill(0xff);
    assert_eq!(format!("{:?}", packet.meta()), before);
    packet.trim_front(usize::MAX);
    assert!(packet.is_empty());
}

fn the_pool_is_bounded_and_gets_everything_back(pool: &Mempool) {
    assert_eq!((pool.available(), pool.capacity()), (BUFFERS, BUFFERS));
    let mut source = pool.clone();
    let all: Vec<_> = std::iter::from_fn(|| source.alloc()).collect();
    assert_eq!((all.len(), pool.available()), (BUFFERS as usize, 0));
    drop(all);
    assert_eq!(pool.available(), BUFFERS);
}

/// What one thread allocates another may free, registered or not.
fn threads_share_it(eal: &Eal, pool: &Mempool) {
    for registered in [true, false] {
        let mut source = pool.clone();
        let packets: Vec<_> = std::iter::from_fn(|| source.alloc()).take(300).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let thread = registered.then(|| eal.register_thread().unwrap());
                assert_eq!(eal.register_thread().is_err(), registered, "twice is an error");
                drop(packets);
                drop(thread);
            });
        });
        assert_eq!(pool.available(), BUFFERS);
    }
}
