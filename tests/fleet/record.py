#!/usr/bin/env python3
"""The record of a fleet, written from docs/fleet-protocol.md alone. Prints that of the test vector, in hexadecimal."""

import base64
import hashlib
import ipaddress
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def record(seed, realm, kind, flags, lifetime, time, address, rule, counter, grant, packet=bytes(224)):
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    address = ipaddress.ip_address(address)
    if address.version == 4:
        address = ipaddress.ip_address("::ffff:" + str(address))
    signed = struct.pack(">BBHIQ", 1, kind, flags, lifetime, time) + address.packed + rule.encode().ljust(64, b"\0")
    signed += hashlib.sha256(public).digest()[:8] + struct.pack(">Q", counter) + grant + packet
    assert len(signed) == 352
    audience = hashlib.sha256(realm.encode()).digest()
    return public, signed + key.sign(b"knockd-fleet/1" + audience + signed)


if __name__ == "__main__":
    PUBLIC, RECORD = record(
        bytes([1]) * 32, "web.example.com", 2, 1, 600, 1800000000000, "192.0.2.7", "ssh", 4, bytes([4]) * 16
    )
    print("ed25519:" + base64.b64encode(PUBLIC).decode())
    print(RECORD.hex())
