"""The daemons on packet sockets in network namespaces, as a user of the network meets them."""
import os
import re
import signal
import subprocess
import time
import unittest
from pathlib import Path

from lab.lab import ROOT, Lab, Ping, clear_packets, packets, seed_network, wait_until

BINARIES = Path(os.environ.get("DMVPN_BINARIES", ROOT / "target/debug"))


def up(box):
    """Overlay addresses of the peers that a box reaches."""
    return sorted(peer["overlay"] for peer in box.show("dmvpn")["peers"] if peer["state"] == "up")


class Network(unittest.TestCase):
    """The documented network, made anew for each test."""

    def network(self, replace=(), start=("hub", "spoke1", "spoke2")):
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.boxes, self.hosts, self.inet = seed_network(self.lab, BINARIES, replace)
        self.captures = [self.lab.capture(self.inet, name) for name in self.boxes]
        for name in start:
            self.boxes[name].start()
        for name in start:
            self.boxes[name].ready()
        return self.boxes["hub"], self.boxes["spoke1"], self.boxes["spoke2"]

    def registered(self, hub, expected=("10.0.0.2", "10.0.0.3")):
        wait_until(f"{expected} registered", lambda: up(hub) == list(expected), 40)

    def ping(self, host, target, count=5, **options):
        return Ping(self.lab, self.hosts[host], target, count, 0.2, **options)

    def from_host(self, host, *command):
        return self.lab.inside(self.hosts[host], *command, check=False).stdout

    def assert_wan_is_encrypted(self):
        for capture in self.captures:
            self.assertEqual(clear_packets(capture), [])

    def test_transport_mode_and_gcm(self):
        hub, spoke1, _ = self.network([
            (r'(?m)^(\[vpn\.ipsec\.esp-group\.[A-Z-]+\]\n)', r'\1mode = "transport"\n'),
            (r'(\[vpn\.ipsec\.esp-group\.[A-Z-]+\.proposal\.1\]\n)encryption = "aes256"\nhash = "sha1"',
             r'\1encryption = "aes256gcm128"')])
        self.registered(hub)
        self.ping("lan2", "192.168.3.10").lossless()
        self.assertEqual({sa["suite"] for sa in spoke1.show("sas")["sas"]}, {"aes256gcm128"})
        self.assertEqual({sa["mode"] for sa in spoke1.show("sas")["sas"]}, {"transport"})
        self.assert_wan_is_encrypted()

    def test_wrong_secret_stays_closed(self):
        hub, _, spoke2 = self.network(start=("hub", "spoke1"))
        text, count = re.subn(r'(?m)^pre-shared-secret = .*$', 'pre-shared-secret = "WRONG"', spoke2.config.read_text())
        self.assertEqual(count, 1)
        spoke2.config.write_text(text)
        spoke2.start()
        spoke2.ready()
        self.registered(hub, ["10.0.0.2"])
        wait_until("spoke2 has tried", lambda: packets(self.captures[2], "udp port 500"), 20)
        sent, received = self.ping("lan3", "192.168.1.10").result()
        self.assertEqual((sent, received), (5, 0))
        self.assert_wan_is_encrypted()

    def test_clear_gre_is_refused(self):
        hub, _, _ = self.network()
        self.registered(hub)
        # An echo request from spoke1's LAN to the hub's, in plain GRE with the right key and addresses.
        script = (
            "import socket, struct, sys\n"
            "def total(data):\n"
            "    s = sum(struct.unpack('!%dH' % (len(data) // 2), data))\n"
            "    s = (s >> 16) + (s & 0xffff)\n"
            "    return 0xffff ^ (s + (s >> 16))\n"
            "icmp = struct.pack('!BBHHH', 8, 0, 0, 1, 1) + bytes(56)\n"
            "icmp = icmp[:2] + struct.pack('!H', total(icmp)) + icmp[4:]\n"
            "ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0,\n"
            "                 socket.inet_aton('192.168.2.10'), socket.inet_aton('192.168.1.10'))\n"
            "ip = ip[:10] + struct.pack('!H', total(ip)) + ip[12:]\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)\n"
            "for _ in range(5):\n"
            "    s.sendto(struct.pack('!HHI', 0x2000, 0x0800, 1) + ip + icmp, ('198.51.100.41', 0))\n")
        lan = self.lab.capture(self.hosts["lan1"], "eth0")
        before = hub.show("drops")["drops"].get("clear_gre_on_protected", 0)
        self.lab.inside(self.inet, "python3", "-c", script)
        wait_until("five refused", lambda: hub.show("drops")["drops"].get("clear_gre_on_protected", 0) == before + 5, 5)
        self.assertEqual(packets(lan, "src 192.168.2.10"), 0)

    def test_ttl_and_packet_sizes(self):
        # A packet socket of DPDK gets fragments reassembled by the kernel, and only what fits its frames; libpcap's
        # gets what is on the wire.
        hub, spoke1, _ = self.network([(r"net_af_packet(\d),iface=(eth\d)", r"net_pcap\1,iface=\2,phy_mac=1")])
        self.registered(hub)
        self.ping("lan2", "192.168.3.10").lossless()
        self.assertIn("From 192.168.2.1 ", self.from_host("lan2", "ping", "-n", "-c1", "-W2", "-t1", "192.168.3.10"))
        self.assertIn("From 10.0.0.3 ", self.from_host("lan2", "ping", "-n", "-c1", "-W2", "-t2", "192.168.3.10"))
        # Larger than the tunnel: refused with the size that fits when it must not be fragmented, else in pieces.
        refusal = self.from_host("lan2", "ping", "-n", "-c1", "-W2", "-Mdo", "-s1472", "192.168.3.10")
        self.assertRegex(refusal, r"[Ff]rag(mentation)? needed.*mtu = \d+")
        fits = int(re.search(r"mtu = (\d+)", refusal)[1])
        self.lab.inside(self.hosts["lan2"], "ip", "route", "flush", "cache")
        self.assertIn(" 1 received", self.from_host("lan2", "ping", "-n", "-c1", "-W2", "-Mdo", f"-s{fits - 28}", "192.168.3.10"))
        self.assertIn(" 3 received", self.from_host("lan2", "ping", "-n", "-c3", "-i0.2", "-W2", "-Mdont", "-s4000", "192.168.3.10"))
        self.assert_wan_is_encrypted()

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "one CPU")
    def test_two_workers(self):
        cpus = sorted(os.sched_getaffinity(0))[:2]
        hub, spoke1, _ = self.network([
            (r"iface=(eth\d)", r"iface=\1,qpairs=2"),
            (r'(?m)^(\[dataplane\]\n)(workers *=.*\n)?', rf"\1workers = {cpus}\n")])
        self.registered(hub)
        flows = [self.ping(host, target, 50) for host, target in (
            ("lan1", "192.168.2.10"), ("lan2", "192.168.3.10"), ("lan3", "192.168.1.10"), ("lan2", "192.168.2.1"))]
        for flow in flows:
            flow.lossless()
        workers = spoke1.show("workers")["workers"]
        self.assertEqual([worker["cpu"] for worker in workers], cpus)
        # Queues of a packet socket know nothing of SAs, so packets meet the worker that does not own theirs.
        self.assertGreater(sum(worker["handed_over"] for worker in workers), 0)
        self.assert_wan_is_encrypted()

    def test_the_box_itself(self):
        hub, spoke1, _ = self.network()
        self.registered(hub)
        for host, target in (("lan2", "10.0.0.1"), ("lan2", "192.168.2.1"), ("lan2", "192.168.1.1"), ("lan1", "192.168.1.1")):
            self.ping(host, target).lossless()
        # From the box through its TUN device, to the hub and to a LAN behind it.
        Ping(self.lab, spoke1.ns, "10.0.0.1", 5, 0.2).lossless()
        Ping(self.lab, spoke1.ns, "192.168.1.10", 5, 0.2).lossless()
        # TCP between the boxes themselves.
        server = self.lab.start(hub.ns, "python3", "-m", "http.server", "--bind", "10.0.0.1", "--directory", str(self.lab.dir),
                                "8080", log="http.log")
        wait_until("a page from the hub", lambda: self.lab.inside(
            spoke1.ns, "curl", "-s", "-m", "3", "http://10.0.0.1:8080/", check=False).stdout, 15)
        self.lab.end(server)

    def test_multicast_reaches_every_spoke(self):
        hub, spoke1, spoke2 = self.network()
        self.registered(hub)
        captures = [self.lab.capture(box.ns, "dmvpn0") for box in (spoke1, spoke2)]
        send = ("import socket\n"
                "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                "s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('{}'))\n"
                "s.sendto(b'hello', ('224.0.0.5', 9999))\n")
        self.lab.inside(hub.ns, "python3", "-c", send.format("10.0.0.1"))
        for capture in captures:
            wait_until("the multicast packet", lambda: packets(capture, "dst 224.0.0.5 and src 10.0.0.1 and port 9999") == 1, 5)
        at_hub = self.lab.capture(hub.ns, "dmvpn0")
        self.lab.inside(spoke1.ns, "python3", "-c", send.format("10.0.0.2"))
        wait_until("the spoke's packet", lambda: packets(at_hub, "dst 224.0.0.5 and src 10.0.0.2 and port 9999") == 1, 5)
        self.assert_wan_is_encrypted()

    def test_spoke_behind_nat(self):
        """spoke1's router hides it behind one of its own addresses."""
        hub, spoke1, _ = self.network(start=("hub", "spoke2"))
        self.lab.inside(self.inet, "nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }; "
                        "add rule ip nat post ip saddr 203.0.113.2 snat to 203.0.113.1")
        spoke1.start()
        spoke1.ready()
        self.registered(hub)
        self.ping("lan2", "192.168.1.10").lossless()
        peer = next(peer for peer in hub.show("dmvpn")["peers"] if peer["overlay"] == "10.0.0.2")
        self.assertEqual(peer["nbma"], "203.0.113.1")
        wait_until("IKE and ESP in UDP", lambda: packets(self.captures[0], "udp port 4500") > 5, 5)
        self.ping("lan1", "192.168.2.10").lossless()
        self.assert_wan_is_encrypted()

    def test_orderly_stop_and_return(self):
        hub, spoke1, _ = self.network()
        self.registered(hub)
        begin = time.monotonic()
        spoke1.stop(signal.SIGTERM)
        self.assertEqual(spoke1.process.returncode, 0, spoke1.log_tail())
        self.assertLess(time.monotonic() - begin, 4)
        self.registered(hub, ["10.0.0.3"])
        spoke1.start()
        spoke1.ready()
        self.registered(hub)
        self.ping("lan2", "192.168.1.10").lossless()


class CommandLine(unittest.TestCase):
    """`dmvpnd --check`: no device, no namespace, no root."""

    def check(self, text):
        lab = Lab()
        self.addCleanup(lab.close)
        file = lab.dir / "box.toml"
        file.write_text(text)
        return subprocess.run([BINARIES / "dmvpnd", "--check", file], capture_output=True, text=True, timeout=10)

    def test_examples(self):
        for name in ("hub", "spoke1", "spoke2"):
            done = self.check((ROOT / f"config/examples/{name}.toml").read_text())
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_mistake_at_once(self):
        text = (ROOT / "config/examples/hub.toml").read_text()
        text = text.replace('encryption = "3des"', 'encryption = "rot13"').replace("key = 1", 'key = "one"')
        done = self.check(text.replace("holding-time", "holding-tiem"))
        self.assertEqual(done.returncode, 1)
        for part in ("rot13", '"one"', "holding-tiem", "holding-time", "aes256"):
            self.assertIn(part, done.stdout + done.stderr)
        self.assertNotIn("SECRET", done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
