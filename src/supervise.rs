//! What the main thread does once everything runs: signals, operators' questions, a watch over the other threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crossbeam::channel::{self, Receiver, Sender};
use dmvpn::workers::Crew;
use dmvpn_config::{Config, ConfigDelta};
use dmvpn_control::show::{Request, Response};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::api::{Control, Questions};
use crate::control::ControlThread;

/// How often the other threads are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// What may happen before the main thread comes round to it. More is told again, or is a question that waits.
const EVENTS: usize = 16;

/// The main thread's work.
#[derive(Debug)]
pub(crate) struct Supervisor {
    file: PathBuf,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Stop,
    Reload,
    Question,
}

impl Supervisor {
    /// Catches signals from now on: SIGTERM and SIGINT end the process in order, SIGHUP reads the configuration `file`
    /// again.
    pub(crate) fn new(file: &Path) -> anyhow::Result<Self> {
        let (sender, events) = channel::bounded(EVENTS);
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot catch signals")?;
        let told = sender.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let event = if signal == SIGHUP { Event::Reload } else { Event::Stop };
                if told.send(event).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { file: file.to_owned(), sender, events })
    }

    /// Makes the main thread look for questions.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let sender = self.sender.clone();
        move || {
            // If there is no room, the main thread has much to do and looks anyway.
            let _ = sender.try_send(Event::Question);
        }
    }

    /// Watches until the process is to end.
    ///
    /// # Errors
    /// A thread has ended that must not.
    pub(crate) fn watch(
        self,
        config: Arc<Config>,
        crew: &Crew,
        control: &ControlThread,
        questions: Questions,
    ) -> anyhow::Result<()> {
        let mut steering = Steering { file: self.file, config, control };
        let mut service_manager = ServiceManager::ready();
        loop {
            match self.events.recv_timeout(service_manager.patience()) {
                Ok(Event::Stop) => break,
                Ok(Event::Reload) => {
                    ServiceManager::reloading();
                    match steering.reload() {
                        Ok(delta) => log_delta(&delta),
                        Err(reason) => tracing::error!("the configuration stays as it was: {reason}"),
                    }
                    notify(&[NotifyState::Ready]);
                }
                Ok(Event::Question) | Err(_) => {}
            }
            questions.answer(&mut steering);
            if crew.has_lost_one() {
                bail!("a worker has ended");
            }
            if control.is_lost() {
                bail!("the control thread has ended");
            }
            service_manager.attend(crew, control);
        }
        notify(&[NotifyState::Stopping]);
        tracing::info!("stopping");
        Ok(())
    }
}

/// What operators can change while the appliance runs.
struct Steering<'a> {
    file: PathBuf,
    config: Arc<Config>,
    control: &'a ControlThread,
}

impl Control for Steering<'_> {
    fn request(&mut self, request: Request) -> Option<Response> {
        self.control.ask(request)
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn reload(&mut self) -> Result<ConfigDelta, String> {
        let new = dmvpn_config::load(&self.file)
            .map_err(|findings| findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let delta = ConfigDelta::between(&self.config, &new);
        if !delta.restart.is_empty() {
            return Err(format!("this takes a restart: {}", delta.restart.join(", ")));
        }
        if !delta.is_empty() {
            let new = Arc::new(new);
            if !self.control.configure(Arc::clone(&new)) {
                return Err("the control thread does not answer".to_owned());
            }
            self.config = new;
        }
        Ok(delta)
    }
}

fn log_delta(delta: &ConfigDelta) {
    match delta.is_empty() {
        true => tracing::info!("the configuration has not changed"),
        false => tracing::info!("in force from now on: {}", delta.hot.join(", ")),
    }
}

/// The service manager, if one has started the process.
struct ServiceManager {
    /// Time between two signs of life, and when the next one is due.
    watchdog: Option<(Duration, Instant)>,
    /// Turns of all threads when it had the last one.
    seen: Vec<u64>,
}

impl ServiceManager {
    /// Tells it that the service is up.
    fn ready() -> Self {
        notify(&[NotifyState::Ready]);
        // Three per period, so that one may be late.
        let watchdog = sd_notify::watchdog_enabled().map(|period| (period / 3, Instant::now()));
        Self { watchdog, seen: Vec::new() }
    }

    /// How long the main thread may wait for events.
    fn patience(&self) -> Duration {
        self.watchdog.map_or(ROUND, |(_, due)| due.saturating_duration_since(Instant::now()).min(ROUND))
    }

    /// Gives it a sign of life if one is due; but only if every worker has polled and the control thread has had its
    /// turn since the last one.
    fn attend(&mut self, crew: &Crew, control: &ControlThread) {
        let Some((period, due)) = &mut self.watchdog else { return };
        let now = Instant::now();
        if now < *due {
            return;
        }
        *due = now + *period;
        let turns: Vec<u64> = crew.polls().chain([control.turns()]).collect();
        let stuck = turns.iter().zip(&self.seen).any(|(now, before)| now == before);
        self.seen = turns;
        if stuck {
            tracing::error!(
                "a worker or the control thread is stuck: no sign of life for the service manager"
            );
        } else {
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// Tells it that the configuration is being read again.
    fn reloading() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!("cannot read the clock for the service manager: {error}"),
        }
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot reach the service manager: {error}");
    }
}
