//! A measurement, and a control plane that works beside it.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use anyhow::{Context, anyhow, bail};

use crate::cases::Cases;
use crate::churn::{Churn, Done, Order};
use crate::rig::Rig;

/// What `--ab` is beside a control plane, whose tables cannot be changed from one turn to the next.
pub(crate) const AB: &str =
    "Run every case with one thing changed, too, one after the other: suite, size, peers or burst";

/// A control plane that works beside a measurement, on another CPU if there is one.
pub(crate) struct Beside<'a> {
    orders: &'a Sender<Order>,
    done: &'a Receiver<Done>,
    busy: bool,
}

impl Beside<'_> {
    /// Gives an order, and takes what was done by the last one.
    ///
    /// # Errors
    /// The control plane has failed.
    pub(crate) fn order(&mut self, order: Order) -> anyhow::Result<Option<Done>> {
        let busy = self.busy;
        self.tell(order)?;
        if busy { self.done.recv().map(Some).map_err(|_| ended()) } else { Ok(None) }
    }

    /// Gives an order. Before the next one, take the [`answer`](Self::answer), if there was an order before.
    ///
    /// # Errors
    /// The control plane has failed.
    pub(crate) fn tell(&mut self, order: Order) -> anyhow::Result<()> {
        self.busy = order != Order::Rest;
        self.orders.send(order).map_err(|_| ended())
    }

    /// What was done by the order before the last one, if the control plane has come to the last one.
    ///
    /// # Errors
    /// The control plane has failed.
    pub(crate) fn answer(&mut self) -> anyhow::Result<Option<Done>> {
        match self.done.try_recv() {
            Ok(done) => Ok(Some(done)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }
}

fn ended() -> anyhow::Error {
    anyhow!("the control plane has ended")
}

/// A CPU for the worker, and another for the control plane; the same, if there is no other. (To be asked before the thread
/// is kept on one.)
///
/// # Errors
/// None is known.
pub(crate) fn cpus(cases: &Cases) -> anyhow::Result<(usize, usize)> {
    match cases.cpus(2).or_else(|_| cases.cpus(1))?[..] {
        [worker, control] => Ok((worker, control)),
        [worker, ..] => Ok((worker, worker)),
        [] => bail!("no CPU known: say --cpu"),
    }
}

/// Runs a measurement with a control plane beside it, on that CPU.
///
/// # Errors
/// Those of both.
pub(crate) fn run<T>(
    rig: &Rig,
    cpu: usize,
    churn: Churn,
    measurement: impl FnOnce(&mut Beside<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let ((orders, next), (report, done), (settled, is_settled)) = (channel(), channel(), channel());
        let control = scope.spawn(move || {
            let _pinned = rig.pin(cpu)?;
            settled.send(())?;
            churn.run(&next, &report)
        });
        // It begins on our CPU, which it would not get from a measurement of high priority. If it fails, it ends.
        let _ = is_settled.recv();
        let outcome = measurement(&mut Beside { orders: &orders, done: &done, busy: false });
        drop((orders, done));
        let ended = control.join().map_err(|_| anyhow!("the control plane has panicked"))?;
        ended.context("the control plane").and(outcome)
    })
}
