#!/usr/bin/env python3
"""Writes ring.tsv to standard output; see README.md."""

import hashlib
import ipaddress
import random

MASK = (1 << 64) - 1
VIRTUAL_NODES = 63


def siphash24(key, data):
    def rotl(x, n):
        return (x << n | x >> (64 - n)) & MASK

    def rounds(v, n):
        a, b, c, d = v
        for _ in range(n):
            a, c = (a + b) & MASK, (c + d) & MASK
            b, d = rotl(b, 13) ^ a, rotl(d, 16) ^ c
            a = rotl(a, 32)
            c, a = (c + b) & MASK, (a + d) & MASK
            b, d = rotl(b, 17) ^ c, rotl(d, 21) ^ a
            c = rotl(c, 32)
        return a, b, c, d

    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    magic = b"somepseudorandomlygeneratedbytes"
    words = [int.from_bytes(magic[i : i + 8], "big") for i in range(0, 32, 8)]
    v = tuple(m ^ k for m, k in zip(words, (k0, k1, k0, k1)))
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) % 256])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        a, b, c, d = rounds((*v[:3], v[3] ^ word), 2)
        v = (a ^ word, b, c, d)
    a, b, c, d = rounds((*v[:2], v[2] ^ 0xFF, v[3]), 4)
    return a ^ b ^ c ^ d


# The worked example in appendix A of the SipHash paper.
assert siphash24(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


def value(name, data):
    if name == "md5":
        return int.from_bytes(hashlib.md5(data).digest()[:8], "big")
    return siphash24(bytes.fromhex(name.removeprefix("siphash:")), data)


def point(name, addr, index):
    return value(name, ipaddress.ip_address(addr).packed + index.to_bytes(4, "big"))


def flow(name, addr, port):
    return value(name, ipaddress.ip_address(addr).packed + port.to_bytes(2, "big"))


def owner(name, members, addr, port):
    points = [(point(name, m, i), m) for m in members for i in range(VIRTUAL_NODES)]
    h = flow(name, addr, port)
    before = [p for p in points if p[0] <= h]
    return max(before or points)[1]


def main():
    rng = random.Random(2010)
    hashes = ["md5", "siphash:000102030405060708090a0b0c0d0e0f", "siphash:" + rng.randbytes(16).hex()]
    nodes = ["198.18.1.11", "198.18.1.12", "198.18.1.13", "2001:db8::11", "2001:db8::12"]
    clients = ["198.18.0.200", "0.0.0.0", "255.255.255.255", "2001:db8::c", "::", "::1"]
    keys = ["", "/", "/downloads/dir0000000010/file.zip?version=2", "/grüße", "x" * 55, "x" * 56, "x" * 64]

    def line(*fields):
        print("\t".join(str(field) for field in fields))

    for name in hashes:
        for node in nodes:
            for index in (0, 1, 62, 4294967295):
                line("point", name, node, index, f"{point(name, node, index):016x}")
        for client in clients:
            for port in (0, 80, 40000, 65535):
                line("flow", name, client, port, f"{flow(name, client, port):016x}")
        for key in keys:
            line("key", name, key, f"{value(name, key.encode()):016x}")
        for count in (1, 2, 3, 5):
            for _ in range(12):
                client = str(ipaddress.ip_address("198.18.0.0") + rng.randrange(1 << 17))
                port = rng.randrange(1 << 16)
                line("owner", name, ",".join(nodes[:count]), client, port, owner(name, nodes[:count], client, port))


if __name__ == "__main__":
    main()
