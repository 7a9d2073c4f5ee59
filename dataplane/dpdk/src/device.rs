//! Names of devices.

use std::fmt;
use std::str::FromStr;

/// A device that a port can be made of, as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A NIC by PCI address, e.g. `0000:03:00.0` (the domain may be left out when parsing).
    Pci(String),
    /// A virtual device, e.g. `net_af_packet0,iface=eth0`.
    Virtual {
        /// Driver and number: what comes before the first comma.
        name: String,
        /// What comes after it.
        arguments: String,
    },
}

/// A string that is neither a PCI address nor a virtual device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a PCI address (0000:03:00.0) nor a DPDK device string (net_af_packet0,iface=eth0)")]
pub struct NotADevice(String);

impl Device {
    /// The name that DPDK knows it by.
    pub fn name(&self) -> &str {
        match self {
            Self::Pci(name) | Self::Virtual { name, .. } => name,
        }
    }

    /// The kernel's network interface that it reads and writes by a socket, if it is such a device.
    pub fn kernel_interface(&self) -> Option<&str> {
        match self {
            Self::Pci(_) => None,
            Self::Virtual { arguments, .. } => {
                arguments.split(',').find_map(|argument| argument.strip_prefix("iface="))
            }
        }
    }
}

impl FromStr for Device {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        if let Some(address) = pci_address(text) {
            return Ok(Self::Pci(address));
        }
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.contains('_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(NotADevice(text.to_owned()));
        }
        Ok(Self::Virtual { name: name.to_owned(), arguments: arguments.to_owned() })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtual { name, arguments } if !arguments.is_empty() => write!(f, "{name},{arguments}"),
            _ => f.write_str(self.name()),
        }
    }
}

/// `[domain:]bus:device.function` in hexadecimal, with the domain filled in.
fn pci_address(text: &str) -> Option<String> {
    let hex = |digits: &str, len: usize| digits.len() == len && digits.chars().all(|c| c.is_ascii_hexdigit());
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.split_once(':').unwrap_or(("0000", rest));
    (hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1))
        .then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_operators_write() {
        assert_eq!("0000:3b:00.1".parse(), Ok(Device::Pci("0000:3b:00.1".into())));
        assert_eq!("3B:00.1".parse(), Ok(Device::Pci("0000:3b:00.1".into())));
        let af_packet: Device = "net_af_packet0,iface=eth0,blocksz=4096".parse().unwrap();
        assert_eq!(af_packet.name(), "net_af_packet0");
        assert_eq!(af_packet.kernel_interface(), Some("eth0"));
        assert_eq!(af_packet.to_string(), "net_af_packet0,iface=eth0,blocksz=4096");
        let null: Device = "net_null0".parse().unwrap();
        assert_eq!((null.to_string(), null.kernel_interface()), ("net_null0".into(), None));
        for wrong in ["", "eth0", "3b:00", "net null0", ",iface=eth0", "00000:3b:00.1"] {
            assert_eq!(wrong.parse::<Device>(), Err(NotADevice(wrong.into())));
        }
    }
}
