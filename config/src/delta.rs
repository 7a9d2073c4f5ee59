//! What a new configuration changes, and whether that takes a restart.

use crate::model::{Config, Tunnel};

/// The difference between the configuration in force and another one: keys in the vocabulary of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigDelta {
    /// Changed, and can be put in force at once.
    pub hot: Vec<String>,
    /// Changed, and only take effect after a restart: devices, memory and threads are set up once.
    pub restart: Vec<String>,
}

impl ConfigDelta {
    /// What `new` changes in `old`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut delta = Self::default();
        let devices = |config: &Config| -> Vec<_> {
            config.ethernet.iter().map(|entry| (entry.name.clone(), entry.port.clone(), entry.mtu)).collect()
        };
        if devices(old) == devices(new) {
            for (old, new) in old.ethernet.iter().zip(&new.ethernet) {
                delta.hot(old != new, format!("interfaces.ethernet.{}", new.name));
            }
        } else {
            delta.restart(true, "interfaces.ethernet");
        }
        delta.hot(old.host_name != new.host_name, "system");
        delta.tunnels(&old.tunnels, &new.tunnels);
        delta.hot(old.routes != new.routes, "protocols.static");
        delta.restart(old.dataplane != new.dataplane, "dataplane");
        delta.restart(old.host != new.host, "host");
        delta
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.hot.is_empty() && self.restart.is_empty()
    }

    fn tunnels(&mut self, old: &[Tunnel], new: &[Tunnel]) {
        let named =
            |tunnels: &[Tunnel], name: &str| tunnels.iter().find(|tunnel| tunnel.name == name).cloned();
        for tunnel in new {
            let name = &tunnel.name;
            let Some(before) = named(old, name) else {
                self.hot(true, format!("interfaces.tunnel.{name}"));
                continue;
            };
            self.hot(before.nhrp != tunnel.nhrp, format!("protocols.nhrp.tunnel.{name}"));
            if before.profile != tunnel.profile {
                let profile = tunnel.profile.as_ref().or(before.profile.as_ref());
                self.hot.extend(profile.map(|profile| format!("vpn.ipsec.profile.{}", profile.name)));
            }
            let rest_of_before =
                Tunnel { nhrp: tunnel.nhrp.clone(), profile: tunnel.profile.clone(), ..before };
            self.hot(rest_of_before != *tunnel, format!("interfaces.tunnel.{name}"));
        }
        for tunnel in old {
            self.hot(named(new, &tunnel.name).is_none(), format!("interfaces.tunnel.{}", tunnel.name));
        }
    }

    fn hot(&mut self, is_changed: bool, key: impl Into<String>) {
        if is_changed {
            self.hot.push(key.into());
        }
    }

    fn restart(&mut self, is_changed: bool, key: impl Into<String>) {
        if is_changed {
            self.restart.push(key.into());
        }
    }
}
