//! Quick modes that we begin.

use dmvpn_config::model::EspMode;

use super::{
    Accepted, Agreeing, Context, ExpectQuick2, FINISHED_LIFE, Finished, MAX_OPEN, MakingKey, NONCES, Opening,
    Pair, Quick, hash_of, read_public,
};
use crate::ike::api::Reason;
use crate::ike::dh::{Public, SecretNumber, Work};
use crate::ike::exchange::{Answered, Fingerprint, Request};
use crate::ike::keys::equal;
use crate::ike::main_mode::Refusal;
use crate::ike::payload::{Chain, ChainBuilder, Header, Kind, Sa, encode_nat_oa};
use crate::ike::proposals::{accept_esp, offer_esp};
use crate::ike::selectors::{Hosts, Ids};

impl Context<'_> {
    /// Begins a quick mode. Nothing happens if one is open that we began.
    pub(in crate::ike) fn begin(&mut self) -> Result<(), Reason> {
        if self.is_negotiating() {
            return Ok(());
        }
        if self.open() >= MAX_OPEN {
            return Err(Reason::Limit);
        }
        let pfs = self.env.profile(self.peer.tunnel).ok_or(Reason::NotConfigured)?.esp.pfs;
        let spi = self.env.spis.alloc().ok_or(Reason::Limit)?;
        let opening = Opening {
            spi,
            udp: self.sa.nat.any(),
            replaces: self.peer.sending().map(|child| child.id),
            began: self.now,
        };
        let message_id = self.sa.seen.draw(&mut self.env.rng);
        match pfs {
            Some(group) => {
                self.env.start_job(self.owner(message_id), group, Work::Generate);
                self.sa.quick.insert(message_id, Quick::MakingKey(MakingKey { opening }));
            }
            None => self.send_first(message_id, opening, None),
        }
        Ok(())
    }

    pub(super) fn send_first(
        &mut self,
        message_id: u32,
        opening: Opening,
        key: Option<(Vec<u8>, SecretNumber)>,
    ) {
        let Some(profile) = self.env.profile(self.peer.tunnel).cloned() else { return };
        let (public, private) = key.unzip();
        let nonce_i = self.env.nonce();
        let ids = Ids::gre(*self.link.local.ip(), *self.link.remote.ip());
        let mut rest = ChainBuilder::new();
        rest.push(Kind::SA, offer_esp(&profile.esp, opening.spi, opening.udp).encode());
        rest.push(Kind::NONCE, nonce_i.clone());
        if let Some(public) = public {
            rest.push(Kind::KE, public);
        }
        ids.write(&mut rest);
        if opening.udp && profile.esp.mode == EspMode::Transport {
            // RFC 3947 section 5.2.
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.local.ip()));
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.remote.ip()));
        }
        let iv = self.sa.keys.phase2_iv(&self.sa.last_block, message_id);
        let Some((message, iv)) = self.seal(message_id, &iv, &[&message_id.to_be_bytes()], rest) else {
            return;
        };
        self.env.send(self.link.local, self.link.remote, message.clone());
        let request = Request::new(self.now, &mut self.env.rng, message);
        let state = ExpectQuick2 { opening, ids, nonce_i, private, iv, request };
        self.sa.quick.insert(message_id, Quick::ExpectQuick2(state));
    }

    /// Message 2: the peer grants what we asked for.
    pub(super) fn second(
        &mut self,
        header: Header,
        state: ExpectQuick2,
        body: &[u8],
        question: Fingerprint,
    ) -> Result<(), Refusal> {
        let id = header.message_id;
        let Some((plain, iv)) = self.sa.keys.open(&state.iv, body) else {
            return self.keep(id, Quick::ExpectQuick2(state), Reason::Malformed);
        };
        let verified = Chain::decode(header.next, &plain).ok().filter(|chain| {
            let expected = self.hash(&[&id.to_be_bytes(), &state.nonce_i, chain.after_first()]);
            hash_of(chain).is_ok_and(|hash| equal(hash, &expected))
        });
        let Some(chain) = verified else {
            return self.keep(id, Quick::ExpectQuick2(state), Reason::Authentication);
        };
        self.prove();
        let ExpectQuick2 { opening, ids, nonce_i, private, .. } = state;
        let (accepted, public) = match self.read_grant(&chain, &opening, &ids, nonce_i, iv, question) {
            Ok(read) => read,
            Err(reason) => {
                self.env.spis.free(opening.spi);
                self.fail(reason);
                return Ok(());
            }
        };
        match (accepted.agreed.pfs, private.zip(public)) {
            (Some(group), Some((private, public))) => {
                self.env.start_job(self.owner(id), group, |_| Work::Agree(private, public));
                self.sa.quick.insert(id, Quick::Agreeing(Agreeing { opening, accepted }));
            }
            _ => self.complete(id, &opening, accepted, &[]),
        }
        Ok(())
    }

    fn read_grant(
        &self,
        chain: &Chain<'_>,
        opening: &Opening,
        ids: &Ids,
        nonce_i: Vec<u8>,
        iv: Vec<u8>,
        question: Fingerprint,
    ) -> Result<(Accepted, Option<Public>), Reason> {
        let profile = self.env.profile(self.peer.tunnel).ok_or(Reason::NotConfigured)?;
        let sa_body = chain.one(Kind::SA).ok_or(Reason::Malformed)?;
        let grant = Sa::decode(sa_body).map_err(|_| Reason::Malformed)?;
        let agreed = accept_esp(&profile.esp, opening.udp, &grant).ok_or(Reason::NoProposal)?;
        let nonce = chain.one(Kind::NONCE).filter(|nonce| NONCES.contains(&nonce.len()));
        let nonce_r = nonce.ok_or(Reason::Malformed)?.to_vec();
        let public = read_public(chain, agreed.pfs)?;
        let hosts = Hosts::granted(ids, Ids::read(chain)?.as_ref(), self.sa.nat).ok_or(Reason::Selectors)?;
        Ok((Accepted { agreed, nonce_i, nonce_r, hosts, iv, question }, public))
    }

    /// Installs our inbound SA, then sends message 3.
    pub(super) fn complete(&mut self, id: u32, opening: &Opening, accepted: Accepted, shared: &[u8]) {
        let Accepted { agreed, nonce_i, nonce_r, hosts, iv, question } = accepted;
        // HASH(3) = prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b)
        let prefix: [&[u8]; 4] = [&[0], &id.to_be_bytes(), &nonce_i, &nonce_r];
        let sealed = self.seal(id, &iv, &prefix, ChainBuilder::new());
        let pair = Pair {
            agreed: &agreed,
            initiator: true,
            spi: opening.spi,
            nonce_i: &nonce_i,
            nonce_r: &nonce_r,
            hosts,
            replaces: opening.replaces,
        };
        let child = self.make_child(&pair, shared);
        let (Some((message, _)), Ok(child)) = (sealed, child) else {
            self.env.spis.free(opening.spi);
            self.fail(Reason::WeakKey);
            return;
        };
        self.env.send(self.link.local, self.link.remote, message.clone());
        let answered = Answered::new(question, message);
        let finished = Finished { child, answered, until: self.now + FINISHED_LIFE };
        self.sa.quick.insert(id, Quick::Finished(finished));
        self.peer.switch_soon(self.env, self.now, child);
    }

    /// Sends any payloads as message 1.
    #[cfg(test)]
    pub(in crate::ike) fn send_raw(&mut self, rest: ChainBuilder) {
        let message_id = self.sa.seen.draw(&mut self.env.rng);
        let iv = self.sa.keys.phase2_iv(&self.sa.last_block, message_id);
        if let Some((message, _)) = self.seal(message_id, &iv, &[&message_id.to_be_bytes()], rest) {
            self.env.send(self.link.local, self.link.remote, message);
        }
    }
}
