"""Ours against real peers: FRR nhrpd with authentication, strongSwan, Linux mGRE and XFRM."""
import os
import unittest
from pathlib import Path

from lab.lab import ROOT, Box, Lab, Ping, clear_packets, packets, run, wait_until

PEERLAB = Path(__file__).resolve().parent / "peerlab"
BINARIES = Path(os.environ.get("DMVPN_BINARIES", ROOT / "target/debug"))


class Peers:
    """Real peers and the WAN between them, in namespaces and folders of one lab."""

    def __init__(self, lab):
        self.wan = f"{lab.name}-wan"
        self.env = dict(os.environ, PEERLAB_RUN=str(lab.dir / "peerlab"), PEERLAB_NETNS=self.wan)

    def __call__(self, *words, timeout=240):
        return run("env", *(f"{key}={self.env[key]}" for key in ("PEERLAB_RUN", "PEERLAB_NETNS")), str(PEERLAB), *words,
                   timeout=timeout).stdout

    def exec(self, name, command, timeout=60):
        return self("exec", "--timeout", str(timeout), name, command, timeout=timeout + 10)

    def ping(self, name, target, count=20):
        """Pings from the host on a real peer's LAN; returns how many were answered."""
        output = self.exec(name, f"ip netns exec lan ping -n -q -i 0.2 -W 2 -c {count} {target} || true")
        return int(output.split(" received")[0].rsplit(" ", 1)[-1])


class Case(unittest.TestCase):
    def box(self, site, link, mode):
        """Ours in place of `site`, on the WAN link of that name, with a host on its LAN."""
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.peers = Peers(self.lab)
        box = Box(self.lab, site, ROOT / f"config/examples/{site}.toml", BINARIES,
                  [(r'(?m)^(\[vpn\.ipsec\.esp-group\.[A-Z-]+\]\n)', rf'\1mode = "{mode}"\n'),
                   (r'\Z', '\n[protocols.static.route."192.168.4.0/24"]\nnext-hop = "10.0.0.4"\n')])
        self.wan = {"hub": "198.51.100.41", "spoke1": "203.0.113.2"}[site]
        third = {"hub": 1, "spoke1": 2, "spoke2": 3}[site]
        self.host = self.lab.netns("lan")
        self.addCleanup(self.peers, "down")
        self.peers("wan", "up", "--veth", f"{link}={box.ns}:eth0")
        self.lab.link(box.ns, "eth1", self.host, "eth0")
        self.lab.address(self.host, "eth0", f"192.168.{third}.10/24")
        self.lab.route(self.host, "default", f"192.168.{third}.1")
        self.capture = self.lab.capture(self.peers.wan, link)
        box.start()
        box.ready()
        return box

    def lossless(self, target, count, while_running):
        """Pings `target` from our LAN while something happens; not one may be lost."""
        ping = Ping(self.lab, self.host, target, count, 0.05)
        while_running()
        self.assertEqual(ping.lossless(), count)

    def active(self, box):
        return {sa["spi"] for sa in box.show("sas")["sas"] if sa["state"] == "active"}

    def rekeyed(self, box, target, action):
        """`action` replaces the SAs with the peer at `target`, under traffic."""
        before = self.active(box)

        def act():
            action()
            wait_until("new SAs", lambda: self.active(box) - before, 20)
        self.lossless(target, 200, act)

    def nothing_clear(self):
        """Ours sends nothing but IKE and ESP, and nobody sends GRE. (A kernel that is not ready yet says so by ICMP.)"""
        self.assertEqual(clear_packets(self.capture, f"src {self.wan}"), [])
        self.assertEqual(packets(self.capture, "ip proto 47"), 0)
        self.assertGreater(packets(self.capture, "ip proto 50 or udp port 4500"), 20)


class Hub(Case):
    """Ours is the hub; spoke1 has a public address, spoke3 is behind a NAT."""

    def run_with(self, mode):
        hub = self.box("hub", "plhub", mode)
        self.peers("up", "spoke1", "spoke3", "-s", f"MODE={mode}")
        wait_until("both spokes registered", lambda: sorted(
            peer["overlay"] for peer in hub.show("dmvpn")["peers"] if peer["state"] == "up") == ["10.0.0.2", "10.0.0.4"], 60)
        for name, host in (("spoke1", "192.168.2.10"), ("spoke3", "192.168.4.10")):
            self.assertEqual(self.peers.ping(name, "192.168.1.10"), 20, f"from {name}'s LAN")
            self.lossless(host, 20, lambda: None)
        self.rekeyed(hub, "192.168.2.10", lambda: hub.ctl("rekey", "esp"))
        child = "dmvpn" if mode == "transport" else "hub"
        self.rekeyed(hub, "192.168.2.10", lambda: self.peers.exec("spoke1", f"swanctl --rekey --child {child}"))
        self.nothing_clear()

    def test_transport(self):
        self.run_with("transport")

    def test_tunnel(self):
        self.run_with("tunnel")


class Spoke(Case):
    """Ours is a spoke of a real hub."""

    def run_with(self, mode):
        spoke = self.box("spoke1", "plsp1", mode)
        self.peers("up", "hub", "-s", f"MODE={mode}")
        wait_until("registered", lambda: [peer for peer in spoke.show("dmvpn")["peers"] if peer["state"] == "up"], 90)
        wait_until("the hub shows us", lambda: "10.0.0.2" in self.peers.exec("hub", "vtysh -c 'show ip nhrp cache'"), 30)
        self.assertEqual(self.peers.ping("hub", "192.168.2.10"), 20)
        self.lossless("192.168.1.10", 20, lambda: None)
        self.rekeyed(spoke, "192.168.1.10", lambda: spoke.ctl("rekey", "esp"))
        self.rekeyed(spoke, "192.168.1.10", lambda: self.peers.exec("hub", "swanctl --rekey --child dmvpn"))
        self.nothing_clear()

    def test_transport(self):
        self.run_with("transport")

    def test_tunnel(self):
        self.run_with("tunnel")

    def test_shortcut_to_a_real_spoke(self):
        spoke = self.box("spoke1", "plsp1", "transport")
        self.peers("up", "hub", "spoke2")
        wait_until("registered", lambda: [peer for peer in spoke.show("dmvpn")["peers"] if peer["state"] == "up"], 90)
        wait_until("spoke2 is registered", lambda: "10.0.0.3" in self.peers.exec("hub", "vtysh -c 'show ip nhrp cache'"), 60)
        wait_until("the first answer", lambda: Ping(self.lab, self.host, "192.168.3.10", 1, 1).result()[1], 30)
        wait_until("the shortcut", lambda: [peer for peer in spoke.show("dmvpn")["peers"]
                                            if (peer["overlay"], peer["state"]) == ("10.0.0.3", "up")], 30)
        self.lossless("192.168.3.10", 50, lambda: None)
        self.assertEqual(self.peers.ping("spoke2", "192.168.2.10"), 20)
        self.nothing_clear()


if __name__ == "__main__":
    unittest.main()
