//! What belongs to generated traffic: stations, peers and their SAs, as a TOML file. It takes the place of ARP, IKE
//! and NHRP, which nobody speaks in a capture file.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, ensure};
use dmvpn_config::Config;
use dmvpn_esp::{KeyMaterial, Suite};
use dmvpn_wire::MacAddr;
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cases::NamedSuite;

/// The content of a side file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SideFile {
    /// For whoever finds the file.
    pub(crate) notice: String,
    /// What it was made from.
    pub(crate) seed: u64,
    /// Ethernet addresses of the box's interfaces.
    pub(crate) ports: Vec<PortEntry>,
    /// The stations beside the box that packets come from and go to.
    pub(crate) stations: Vec<Station>,
    /// The far ends of its tunnels.
    pub(crate) peers: Vec<PeerEntry>,
}

/// An interface of the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PortEntry {
    /// Its name in the configuration.
    pub(crate) interface: String,
    /// Its Ethernet address.
    pub(crate) mac: Text<MacAddr>,
}

/// A station on the link of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Station {
    /// The interface of the box.
    pub(crate) interface: String,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// Its Ethernet address.
    pub(crate) mac: Text<MacAddr>,
}

/// The far end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PeerEntry {
    /// The tunnel's name in the configuration.
    pub(crate) tunnel: String,
    /// Its underlay address.
    pub(crate) remote: Ipv4Addr,
    /// Its UDP port, where a NAT is on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nat_port: Option<u16>,
    /// Its address in the overlay.
    pub(crate) overlay: Ipv4Addr,
    /// The network behind it.
    pub(crate) network: Ipv4Network,
    /// By which it sends to the box.
    pub(crate) inbound: SaEntry,
    /// By which the box sends to it.
    pub(crate) outbound: SaEntry,
}

/// One SA. Its keys are for tests, so unlike those of real SAs they are written and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SaEntry {
    /// Security parameters index.
    pub(crate) spi: u32,
    /// Its suite, as in `--suite`.
    pub(crate) suite: Text<NamedSuite>,
    /// ESP in tunnel mode; otherwise in transport mode.
    pub(crate) tunnel_mode: bool,
    /// Keying material: the cipher's key (with the salt of AES-GCM), then that of the integrity algorithm.
    pub(crate) keys: Hex,
}

/// Something that has a textual form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text<T>(pub(crate) T);

/// Bytes, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl SideFile {
    /// Reads a side file.
    ///
    /// # Errors
    /// It cannot be read, or is not one.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes it.
    ///
    /// # Errors
    /// There is no room, or no permission.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives interfaces, in the order of a configuration, and the stations beside them other Ethernet addresses.
    pub(crate) fn readdress(&mut self, config: &Config, near: &[MacAddr], far: &[MacAddr]) {
        for ((interface, near), far) in config.ethernet.iter().zip(near).zip(far) {
            for port in self.ports.iter_mut().filter(|port| port.interface == interface.name) {
                port.mac.0 = *near;
            }
            for station in self.stations.iter_mut().filter(|station| station.interface == interface.name) {
                station.mac.0 = *far;
            }
        }
    }

    /// The Ethernet address that it gives an interface.
    ///
    /// # Errors
    /// It gives none.
    pub(crate) fn mac(&self, interface: &str) -> anyhow::Result<MacAddr> {
        let port = self.ports.iter().find(|port| port.interface == interface);
        port.map(|port| port.mac.0).with_context(|| format!("the side file says nothing of {interface}"))
    }
}

impl SaEntry {
    /// Its suite.
    pub(crate) fn suite(&self) -> Suite {
        self.suite.0.0
    }

    /// Its keys, as an SA is made from them.
    ///
    /// # Errors
    /// They are not keys of its suite.
    pub(crate) fn material(&self) -> anyhow::Result<KeyMaterial> {
        ensure!(self.spi > 255, "SPI {} is reserved", self.spi);
        KeyMaterial::from_keymat(self.suite(), &self.keys.0).with_context(|| format!("SA {:#x}", self.spi))
    }
}

impl fmt::Display for NamedSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            let text = str::from_utf8(pair).ok().filter(|text| text.len() == 2 && !text.starts_with('+'))?;
            u8::from_str_radix(text, 16).ok()
        };
        let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side_file() -> SideFile {
        let sa = SaEntry {
            spi: 0x100_0007,
            suite: Text("aes128gcm".parse().unwrap()),
            tunnel_mode: false,
            keys: Hex((0..20).collect()),
        };
        SideFile {
            notice: "test".into(),
            seed: 1,
            ports: vec![PortEntry { interface: "eth0".into(), mac: Text(MacAddr([2, 0, 0, 0, 0, 1])) }],
            stations: vec![],
            peers: vec![PeerEntry {
                tunnel: "tun0".into(),
                remote: [100, 64, 0, 1].into(),
                nat_port: None,
                overlay: [172, 16, 0, 2].into(),
                network: "10.0.0.0/24".parse().unwrap(),
                inbound: sa.clone(),
                outbound: sa,
            }],
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sas.toml");
        side_file().write(&path).unwrap();
        let read = SideFile::read(&path).unwrap();
        assert_eq!(read, side_file());
        assert!(read.peers[0].inbound.material().is_ok());
        assert!(read.mac("eth0").is_ok() && read.mac("eth1").is_err());
    }

    #[test]
    fn refuses_what_is_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sas.toml");
        side_file().write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in [("00010203", "0001020"), ("00010203", "+0010203"), ("aes128gcm", "rot13")] {
            fs::write(&path, text.replace(from, to)).unwrap();
            assert!(SideFile::read(&path).is_err(), "{to}");
        }
        fs::write(&path, text.replace("00010203", "010203")).unwrap();
        assert!(SideFile::read(&path).unwrap().peers[0].inbound.material().is_err(), "too short");
    }
}
