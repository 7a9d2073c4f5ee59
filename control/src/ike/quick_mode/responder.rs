//! Quick modes that the peer begins.

use super::{Answering, Context, ExpectQuick3, MAX_OPEN, NONCES, Offered, Pair, Quick, hash_of, read_public};
use crate::ike::api::Reason;
use crate::ike::dh::{Public, Work};
use crate::ike::exchange::{Answered, Fingerprint, Request};
use crate::ike::informational;
use crate::ike::keys::equal;
use crate::ike::main_mode::Refusal;
use crate::ike::payload::{
    Chain, ChainBuilder, Header, Kind, Sa, decode_nat_oa, encode_nat_oa, notification,
};
use crate::ike::proposals::{answer_esp, choose_esp};
use crate::ike::selectors::{Hosts, Ids};

impl Context<'_> {
    /// Message 1: the peer wants a pair of SAs.
    pub(super) fn first(
        &mut self,
        header: Header,
        body: &[u8],
        question: Fingerprint,
    ) -> Result<(), Refusal> {
        if self.sa.seen.contains(header.message_id) {
            self.env.counters.replayed += 1;
            return Err(Refusal::Unexpected);
        }
        let iv = self.sa.keys.phase2_iv(&self.sa.last_block, header.message_id);
        let (plain, iv) = self.sa.keys.open(&iv, body).ok_or(Reason::Malformed)?;
        // If this is not a chain it was not encrypted with our keys.
        let chain = Chain::decode(header.next, &plain).map_err(|_| Reason::Authentication)?;
        let id = header.message_id.to_be_bytes();
        if !equal(hash_of(&chain)?, &self.hash(&[&id, chain.after_first()])) {
            return Err(Reason::Authentication.into());
        }
        if self.open() >= MAX_OPEN {
            // Not noted as seen: the peer repeats it, and there may be room by then.
            return Err(Reason::Limit.into());
        }
        self.sa.seen.insert(header.message_id);
        self.prove();
        match self.read_offer(&chain, iv, question) {
            Ok(offered) => self.take_offer(header.message_id, offered),
            Err((refusal, spi)) => {
                if let Refusal::Because(reason) = refusal {
                    let kind = match reason {
                        Reason::NoProposal => notification::NO_PROPOSAL_CHOSEN,
                        Reason::Selectors => notification::INVALID_ID_INFORMATION,
                        Reason::KeyExchange => notification::INVALID_KEY_INFORMATION,
                        _ => notification::PAYLOAD_MALFORMED,
                    };
                    informational::send_error(self, spi, kind);
                }
                Err(refusal)
            }
        }
    }

    fn read_offer(
        &mut self,
        chain: &Chain<'_>,
        iv: Vec<u8>,
        question: Fingerprint,
    ) -> Result<(Offered, Option<Public>), (Refusal, Vec<u8>)> {
        let sa_body =
            chain.rest().next().filter(|payload| payload.kind == Kind::SA && chain.one(Kind::SA).is_some());
        let sa_body = sa_body.ok_or_else(|| (Reason::Malformed.into(), Vec::new()))?.body;
        let offer = Sa::decode(sa_body).map_err(|error| (error.into(), Vec::new()))?;
        let spi = offer.proposals.first().map(|proposal| proposal.spi.clone()).unwrap_or_default();
        let refuse = |reason: Reason| (Refusal::from(reason), spi.clone());
        let profile = self.env.profile(self.peer.tunnel).ok_or_else(|| refuse(Reason::NotConfigured))?;
        let agreed = choose_esp(&profile.esp, &offer).ok_or_else(|| refuse(Reason::NoProposal))?;
        let nonce = chain.one(Kind::NONCE).filter(|nonce| NONCES.contains(&nonce.len()));
        let nonce_i = nonce.ok_or_else(|| refuse(Reason::Malformed))?.to_vec();
        let public = read_public(chain, agreed.pfs).map_err(refuse)?;
        let ids = Ids::read(chain).map_err(refuse)?;
        let (local, remote) = (*self.link.local.ip(), *self.link.remote.ip());
        let hosts = Hosts::offered(ids.as_ref(), self.sa.nat, local, remote);
        let hosts = hosts.ok_or_else(|| refuse(Reason::Selectors))?;
        let nat_oa = chain.all(Kind::NAT_OA).filter_map(decode_nat_oa).next().is_some();
        let nonce_r = self.env.nonce();
        Ok((Offered { agreed, nonce_i, nonce_r, ids, hosts, nat_oa, iv, question }, public))
    }

    fn take_offer(
        &mut self,
        message_id: u32,
        (offered, public): (Offered, Option<Public>),
    ) -> Result<(), Refusal> {
        let spi = self.env.spis.alloc().ok_or(Reason::Limit)?;
        let replaces = self.peer.sending().map(|child| child.id);
        let group = offered.agreed.pfs;
        let state = Answering { offered, spi, replaces, began: self.now };
        match group.zip(public) {
            Some((group, public)) => {
                self.env.start_job(self.owner(message_id), group, |seed| Work::Respond(seed, public));
                self.sa.quick.insert(message_id, Quick::Answering(state));
            }
            None => self.answer(message_id, state, &[], &[]),
        }
        Ok(())
    }

    /// Installs our inbound SA, then sends message 2.
    pub(super) fn answer(&mut self, message_id: u32, state: Answering, public: &[u8], shared: &[u8]) {
        let Answering { offered, spi, replaces, began: _ } = state;
        let Offered { agreed, nonce_i, nonce_r, ids, hosts, nat_oa, iv, question } = offered;
        let nonces = [nonce_i.as_slice(), &nonce_r].concat();
        let mut rest = ChainBuilder::new();
        rest.push(Kind::SA, answer_esp(&agreed, spi).encode()).push(Kind::NONCE, nonce_r.clone());
        if !public.is_empty() {
            rest.push(Kind::KE, public);
        }
        if let Some(ids) = &ids {
            ids.write(&mut rest);
        }
        if nat_oa {
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.remote.ip()));
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.local.ip()));
        }
        let prefix: [&[u8]; 2] = [&message_id.to_be_bytes(), &nonce_i];
        let Some((message, iv)) = self.seal(message_id, &iv, &prefix, rest) else {
            self.env.spis.free(spi);
            return;
        };
        let pair = Pair {
            agreed: &agreed,
            initiator: false,
            spi,
            nonce_i: &nonce_i,
            nonce_r: &nonce_r,
            hosts,
            replaces,
        };
        let child = match self.make_child(&pair, shared) {
            Ok(child) => child,
            Err(reason) => {
                self.env.spis.free(spi);
                self.problem(reason);
                return;
            }
        };
        self.env.send(self.link.local, self.link.remote, message.clone());
        let request = Request::new(self.now, &mut self.env.rng, message.clone());
        let answered = Answered::new(question, message);
        let state = ExpectQuick3 { child, nonces, iv, request, answered };
        self.sa.quick.insert(message_id, Quick::ExpectQuick3(state));
    }

    /// Message 3: the peer has both SAs.
    pub(super) fn third(
        &mut self,
        header: Header,
        mut state: ExpectQuick3,
        body: &[u8],
        question: Fingerprint,
    ) -> Result<(), Refusal> {
        let id = header.message_id;
        if state.answered.is_to(question) {
            // Message 1 again.
            self.env.counters.duplicates += 1;
            if let Some(answer) = state.answered.again() {
                let answer = answer.to_vec();
                self.env.counters.repeated += 1;
                self.env.send(self.link.local, self.link.remote, answer);
            }
            self.sa.quick.insert(id, Quick::ExpectQuick3(state));
            return Ok(());
        }
        let verified = self.sa.keys.open(&state.iv, body).is_some_and(|(plain, _)| {
            let expected = self.hash(&[&[0], &id.to_be_bytes(), &state.nonces]);
            Chain::decode(header.next, &plain)
                .is_ok_and(|chain| hash_of(&chain).is_ok_and(|hash| equal(hash, &expected)))
        });
        if !verified {
            return self.keep(id, Quick::ExpectQuick3(state), Reason::Authentication);
        }
        self.prove();
        self.peer.switch(self.env, self.now, state.child);
        Ok(())
    }
}
