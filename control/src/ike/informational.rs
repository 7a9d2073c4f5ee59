//! Informational exchanges under an IKE SA (RFC 2409 section 5.7): notifications, DELETE, dead peer
//! detection (RFC 3706). One message each, without an answer and without repetition.

use super::api::{NoticeKind, Reason};
use super::keys::equal;
use super::main_mode::Refusal;
use super::payload::{Chain, ChainBuilder, Delete, Exchange, Header, Kind, Notify, notification};
use super::proposals::responder_lifetime;
use super::quick_mode::Context;

const PROTOCOL_ISAKMP: u8 = 1;
const PROTOCOL_ESP: u8 = 3;

/// An IKE SA that the peer has deleted, by its cookies.
pub(super) type DeletedSa = (u64, u64);

/// Takes an informational message of an established IKE SA.
pub(super) fn receive(
    context: &mut Context<'_>,
    header: Header,
    body: &[u8],
) -> Result<Option<DeletedSa>, Refusal> {
    if !header.is_encrypted() {
        context.env.counters.bad_encryption += 1;
        return Err(Refusal::Unexpected);
    }
    if context.sa.seen.contains(header.message_id) {
        context.env.counters.replayed += 1;
        return Err(Refusal::Unexpected);
    }
    let keys = &context.sa.keys;
    let iv = keys.phase2_iv(&context.sa.last_block, header.message_id);
    let (plain, _) = keys.open(&iv, body).ok_or(Reason::Malformed)?;
    let chain = Chain::decode(header.next, &plain).map_err(|_| Reason::Authentication)?;
    let expected = (keys.prf)(&keys.skeyid_a, &[&header.message_id.to_be_bytes(), chain.after_first()]);
    if chain.first().is_none_or(|first| first.kind != Kind::HASH || !equal(first.body, &expected)) {
        return Err(Reason::Authentication.into());
    }
    context.sa.seen.insert(header.message_id);
    context.prove();
    for payload in chain.rest() {
        match payload.kind {
            Kind::NOTIFY => notified(context, &Notify::decode(payload.body)?),
            Kind::DELETE => match Delete::decode(payload.body)? {
                Some(Delete::Esp(spis)) => spis.into_iter().for_each(|spi| deleted(context, spi)),
                // What comes after the end of the SA that it came by is not looked at.
                Some(Delete::Isakmp(sas)) => return Ok(sas.first().copied()),
                None => {}
            },
            _ => {}
        }
    }
    Ok(None)
}

/// Tells the peer that its quick mode is refused.
pub(super) fn send_error(context: &mut Context<'_>, spi: Vec<u8>, kind: u16) {
    notify(context, Notify { protocol: PROTOCOL_ESP, spi, kind, data: Vec::new() });
}

/// Asks the peer whether it lives (RFC 3706 section 5.3).
pub(super) fn send_probe(context: &mut Context<'_>, sequence: u32) {
    context.env.counters.dpd_probes += 1;
    send_dpd(context, notification::R_U_THERE, sequence.to_be_bytes().to_vec());
}

/// Tells the peer that we no longer receive by these SPIs.
pub(super) fn send_delete_esp(context: &mut Context<'_>, spis: Vec<u32>) {
    let mut rest = ChainBuilder::new();
    rest.push(Kind::DELETE, Delete::Esp(spis).encode());
    send(context, rest);
}

/// Tells the peer that this IKE SA ends.
pub(super) fn send_delete_sa(context: &mut Context<'_>) {
    let mut rest = ChainBuilder::new();
    rest.push(Kind::DELETE, Delete::Isakmp(vec![context.link.cookies()]).encode());
    send(context, rest);
}

fn notified(context: &mut Context<'_>, notify: &Notify) {
    match notify.kind {
        notification::R_U_THERE => {
            // The same number comes again until we have answered it.
            send_dpd(context, notification::R_U_THERE_ACK, notify.data.clone());
        }
        // `hear` has ended the probe already, whatever its number: any fresh message proves the same.
        notification::R_U_THERE_ACK | notification::INITIAL_CONTACT => {}
        notification::RESPONDER_LIFETIME if notify.protocol == PROTOCOL_ISAKMP => {
            let granted = notify.attributes().ok().and_then(|attributes| responder_lifetime(&attributes));
            if let Some(lifetime) = granted {
                context.shorten(lifetime);
            }
        }
        kind if kind < notification::FIRST_STATUS => {
            context.env.notice(context.link.remote, Some(context.link.tunnel), NoticeKind::Notify { kind });
            context.refused(&notify.spi, kind);
        }
        kind => {
            context.env.notice(context.link.remote, Some(context.link.tunnel), NoticeKind::Notify { kind })
        }
    }
}

/// The peer no longer receives by this SPI. Only its own SAs are looked through.
fn deleted(context: &mut Context<'_>, spi: u32) {
    if let Some(child) = context.peer.child_by_either(spi).map(|child| child.id) {
        context.peer.remove_child(context.env, context.now, child);
    }
}

fn send_dpd(context: &mut Context<'_>, kind: u16, sequence: Vec<u8>) {
    let (cookie_i, cookie_r) = context.link.cookies();
    let spi = [cookie_i.to_be_bytes(), cookie_r.to_be_bytes()].concat();
    notify(context, Notify { protocol: PROTOCOL_ISAKMP, spi, kind, data: sequence });
}

fn notify(context: &mut Context<'_>, notify: Notify) {
    let mut rest = ChainBuilder::new();
    rest.push(Kind::NOTIFY, notify.encode());
    send(context, rest);
}

/// Sends payloads behind their HASH: `HASH(1) = prf(SKEYID_a, M-ID | the other payloads)`.
pub(super) fn send(context: &mut Context<'_>, rest: ChainBuilder) {
    let message_id = context.sa.seen.draw(&mut context.env.rng);
    let keys = &context.sa.keys;
    let hash = (keys.prf)(&keys.skeyid_a, &[&message_id.to_be_bytes(), &rest.encode()]).to_vec();
    let header = Header {
        cookie_i: context.link.cookie_i,
        cookie_r: context.link.cookie_r,
        next: Kind::NONE,
        exchange: Exchange::INFORMATIONAL,
        flags: 0,
        message_id,
    };
    let iv = keys.phase2_iv(&context.sa.last_block, message_id);
    if let Some((message, _)) = keys.seal(header, &iv, &rest.behind(Kind::HASH, hash)) {
        context.env.send(context.link.local, context.link.remote, message);
    }
}
