//! What stands at one site, and the configuration that makes it so.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use dmvpn_wire::MacAddr;

/// One appliance with its LAN. The sites with the lowest numbers are the hubs.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its number.
    pub number: u8,
    /// Address of its WAN port; private behind a NAT.
    pub wan: Ipv4Addr,
    /// Behind a NAT: its public address. Sites with the same one share the NAT.
    pub public: Option<Ipv4Addr>,
    /// What the tests vary.
    pub options: Options,
}

/// What the tests vary in a configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// `esp-group mode`.
    pub mode: &'static str,
    /// `esp-group lifetime`, in seconds.
    pub esp_lifetime: u32,
    /// `ike-group lifetime`, in seconds.
    pub ike_lifetime: u32,
    /// `dead-peer-detection`: interval and timeout, in seconds.
    pub dead_peer_detection: (u32, u32),
    /// `nhrp holding-time`, in seconds.
    pub holding_time: u16,
    /// Bound to an IPsec profile.
    pub protected: bool,
    /// How many hubs there are.
    pub hubs: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: "tunnel",
            esp_lifetime: 1800,
            ike_lifetime: 3600,
            dead_peer_detection: (30, 120),
            holding_time: 300,
            protected: true,
            hubs: 1,
        }
    }
}

/// The hub, or the first one.
pub const HUB: u8 = 0;

/// WAN address of a hub.
fn hub_wan(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100 + number, 41)
}

impl Site {
    /// A hub, or a spoke on the open internet.
    pub fn new(number: u8, options: Options) -> Self {
        let wan = if number < options.hubs { hub_wan(number) } else { Ipv4Addr::new(203, 0, number, 2) };
        Self { number, wan, public: None, options }
    }

    /// A spoke behind a NAT with this public address.
    pub fn behind_nat(number: u8, public: Ipv4Addr, options: Options) -> Self {
        Self { number, wan: Ipv4Addr::new(10, 99, number, 2), public: Some(public), options }
    }

    /// Its address as the internet sees it.
    pub fn seen_as(&self) -> Ipv4Addr {
        self.public.unwrap_or(self.wan)
    }

    /// Its WAN gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.wan.to_bits() ^ 3)
    }

    /// Its address in the overlay.
    pub fn overlay(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, self.number + 1)
    }

    /// The station on its LAN.
    pub fn station(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 16, self.number, 10)
    }

    /// Ethernet address of a port: 0 is the WAN, 1 the LAN.
    pub fn mac(&self, port: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, self.number, port])
    }

    /// The configuration file.
    pub fn configuration(&self) -> String {
        let Self { number, wan, .. } = self;
        let Options { mode, esp_lifetime, ike_lifetime, holding_time, protected, .. } = &self.options;
        let (interval, timeout) = self.options.dead_peer_detection;
        let (overlay, gateway) = (self.overlay(), self.gateway());
        let mut text = format!(
            r#"
[system]
host-name = "site{number}"

[interfaces.ethernet.eth0]
address = "{wan}/30"
port = "net_null0"

[interfaces.ethernet.eth1]
address = "172.16.{number}.1/24"
port = "net_null1"

[interfaces.tunnel.tun0]
address = "{overlay}/24"
encapsulation = "gre"
local-ip = "0.0.0.0"
multicast = "enable"

[interfaces.tunnel.tun0.parameters.ip]
key = 1

[protocols.nhrp.tunnel.tun0]
cisco-authentication = "SECRET"
holding-time = {holding_time}
redirect = true
"#
        );
        text += "[protocols.static.route.\"0.0.0.0/0\"]\n";
        let _ = writeln!(text, "next-hop = \"{gateway}\"");
        if *number < self.options.hubs {
            text = text.replace("redirect = true\n", "redirect = true\nmulticast = \"dynamic\"\n");
            for spoke in self.options.hubs..=u8::MAX - 2 {
                let _ = writeln!(text, "[protocols.static.route.\"172.16.{spoke}.0/24\"]");
                let _ = writeln!(text, "next-hop = \"10.0.0.{}\"", spoke + 1);
            }
        } else {
            text =
                text.replace("redirect = true\n", "redirect = true\nshortcut = true\nmulticast = \"nhs\"\n");
            text += "[protocols.static.route.\"172.16.0.0/16\"]\nnext-hop = \"10.0.0.1\"\n";
            for hub in 0..self.options.hubs {
                let _ = writeln!(text, "[protocols.nhrp.tunnel.tun0.map.\"10.0.0.{}/24\"]", hub + 1);
                let _ = writeln!(text, "nbma-address = \"{}\"\nregister = true", hub_wan(hub));
            }
        }
        if *protected {
            let _ = write!(
                text,
                r#"
[vpn.ipsec.ipsec-interfaces]
interface = "eth0"

[vpn.ipsec.ike-group.IKE]
key-exchange = "ikev1"
lifetime = {ike_lifetime}

[vpn.ipsec.ike-group.IKE.dead-peer-detection]
interval = {interval}
timeout = {timeout}

[vpn.ipsec.ike-group.IKE.proposal.1]
encryption = "aes256"
hash = "sha1"

[vpn.ipsec.esp-group.ESP]
lifetime = {esp_lifetime}
mode = "{mode}"
pfs = "dh-group2"

[vpn.ipsec.esp-group.ESP.proposal.1]
encryption = "aes256"
hash = "sha1"

[vpn.ipsec.profile.NHRPVPN]
esp-group = "ESP"
ike-group = "IKE"

[vpn.ipsec.profile.NHRPVPN.authentication]
mode = "pre-shared-secret"
pre-shared-secret = "SECRET"

[vpn.ipsec.profile.NHRPVPN.bind]
tunnel = "tun0"
"#
            );
        }
        text += "\n[dataplane]\nworkers = [0]\n\n[host]\ntun = \"dmvpn0\"\n";
        text
    }
}
