//! Ports in memory.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;

use dmvpn_dataplane::{Buffer, Frame, Link};

/// A port that receives what was put there before, a burst at a time, and keeps what it is given to send. Clones are the
/// same port: one for the worker, one for who fills and empties it.
pub(crate) struct MemoryPort<B>(Rc<RefCell<State<B>>>);

struct State<B> {
    burst: usize,
    /// The next to be received last.
    incoming: Vec<B>,
    sent: Vec<B>,
}

impl<B> MemoryPort<B> {
    /// A port that gives up to `burst` packets at a time.
    pub(crate) fn new(burst: usize) -> Self {
        Self(Rc::new(RefCell::new(State { burst, incoming: Vec::new(), sent: Vec::new() })))
    }

    /// Puts packets there, the first to be received first.
    pub(crate) fn fill(&self, packets: Vec<B>) {
        let state = &mut *self.0.borrow_mut();
        state.incoming = packets;
        state.incoming.reverse();
    }

    /// Whether everything was received.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.borrow().incoming.is_empty()
    }

    /// How many packets were sent and not taken yet.
    pub(crate) fn sent_count(&self) -> usize {
        self.0.borrow().sent.len()
    }

    /// Takes what was sent, in order, and makes room for as much: none is to be found while time is taken.
    pub(crate) fn sent(&self) -> Vec<B> {
        let sent = &mut self.0.borrow_mut().sent;
        let room = Vec::with_capacity(sent.capacity());
        mem::replace(sent, room)
    }
}

impl<B> Clone for MemoryPort<B> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<B: Buffer> Link for MemoryPort<B> {
    type Buffer = B;

    fn rx(&mut self, frame: &mut Frame<B>) {
        let state = &mut *self.0.borrow_mut();
        let count = state.burst.min(frame.remaining_capacity()).min(state.incoming.len());
        let first = state.incoming.len() - count;
        frame.extend(state.incoming.drain(first..).rev());
    }

    fn tx(&mut self, frame: &mut Frame<B>) {
        self.0.borrow_mut().sent.extend(frame.drain(..));
    }
}
