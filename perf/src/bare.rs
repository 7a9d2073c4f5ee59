//! The ESP kernels alone, on packets as the path has them.

use arrayvec::ArrayVec;
use dmvpn_dataplane::Buffer;
use dmvpn_dataplane::frame::FRAME_SIZE;
use dmvpn_dpdk::{Clock, Mbuf, Mempool};
use dmvpn_esp::{OpenJob, SealJob, open, seal};
use dmvpn_wire::IpProtocol;

use crate::cases::Direction;
use crate::network::Network;
use crate::traffic::{ESP, Flow, Traffic, seal_at_spokes};

/// Cycles for what the hub seals and opens of `packets` new packets, taken in bursts: an `Err` if any is refused.
pub(crate) fn cycles(
    clock: Clock,
    network: &Network,
    traffic: &mut Traffic,
    pool: &mut Mempool,
    packets: usize,
    burst: usize,
) -> anyhow::Result<u64> {
    let flows: Vec<Flow> = (0..packets).map(|_| traffic.next()).collect();
    let mut frames = flows.iter().map(|flow| flow.wan_frame(network, pool)).collect::<Result<Vec<_>, _>>()?;
    let direction = traffic.direction();
    if direction != Direction::Encap {
        seal_at_spokes(network, &mut frames, &flows)?;
    }
    let begin = clock.cycles();
    for (frames, flows) in frames.chunks_mut(burst).zip(flows.chunks(burst)) {
        if direction != Direction::Encap {
            open_all(network, frames, flows)?;
        }
        if direction != Direction::Decap {
            seal_all(network, frames, flows)?;
        }
    }
    Ok(clock.cycles() - begin)
}

fn open_all(network: &Network, frames: &mut [Mbuf], flows: &[Flow]) -> anyhow::Result<()> {
    let mut jobs = ArrayVec::<OpenJob<'_>, FRAME_SIZE>::new();
    for (frame, flow) in frames.iter_mut().zip(flows) {
        let sa = &network.spokes[flow.from.unwrap_or_default() as usize].from_spoke;
        jobs.push(OpenJob::new(sa, &mut frame.bytes_mut()[ESP..]));
    }
    open(&mut jobs);
    jobs.iter().try_for_each(|job| job.result().map(|_| ()))?;
    Ok(())
}

/// Seals what the hub sends, each packet with the SA of the spoke that it is for.
///
/// # Errors
/// A packet was refused.
pub(crate) fn seal_all(network: &Network, frames: &mut [Mbuf], flows: &[Flow]) -> anyhow::Result<()> {
    let mut jobs = ArrayVec::<SealJob<'_>, FRAME_SIZE>::new();
    for (frame, flow) in frames.iter_mut().zip(flows) {
        let sa = &network.spokes[flow.to.unwrap_or_default() as usize].to_spoke;
        let packet = &mut frame.bytes_mut()[ESP..];
        jobs.push(SealJob::new(sa, packet, flow.payload_len(), IpProtocol::GRE.0));
    }
    seal(&mut jobs);
    jobs.iter().try_for_each(SealJob::result)?;
    Ok(())
}
