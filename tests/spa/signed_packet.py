#!/usr/bin/env python3
"""Another implementation of the signed packet, written from docs/spa-protocol.md alone.

    signed_packet.py check DOCUMENT   computes the test vectors of the document again
    signed_packet.py serve            for each line of JSON on standard input, one on standard output

A line of `serve` has `command`: `seal` (the inputs of a test vector, and possibly `raw_body` in place of a request,
`padding_bytes`, `reserved`, `key_id_day` and `greater_s` to make what is not valid) or `open` (`realm`, `cover`, `blob`,
`today`, `packet`). The answer to `open` has the request, or `refused`.

Needs the package `cryptography` (Debian: python3-cryptography), version 38 or later. It has no XChaCha20, so HChaCha20
is here. It does not check for points of small order, which step 5 of the document demands.
"""

import hashlib
import hmac
import ipaddress
import json
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PROTOCOL = b"knockd-spa/1"
ED25519, FIDO_ED25519 = "ssh-ed25519", "sk-ssh-ed25519@openssh.com"
P256, FIDO_P256 = "ecdsa-sha2-nistp256", "sk-ecdsa-sha2-nistp256@openssh.com"
CURVE = b"nistp256"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SOURCE, WIDEN = 1, 2
DAY = 86_400_000


class Refused(Exception):
    """The packet is not accepted."""


def u32(number):
    return struct.pack(">I", number)


def s(data):
    return u32(len(data)) + data


def sha256(data):
    return hashlib.sha256(data).digest()


def expand(prk, info, length):
    """HKDF-Expand for at most one digest: RFC 5869, section 2.3."""
    assert length <= 32
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()[:length]


def hchacha20(key, nonce):
    """draft-irtf-cfrg-xchacha-03, section 2.2."""
    words = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def rotated(word, by):
        word &= 0xFFFFFFFF
        return (word << by | word >> (32 - by)) & 0xFFFFFFFF

    def quarter(a, b, c, d):
        for first, second, third, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            words[first] = (words[first] + words[second]) & 0xFFFFFFFF
            words[third] = rotated(words[third] ^ words[first], by)

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter(diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return struct.pack("<8I", *words[:4], *words[12:])


def xchacha20poly1305(key, nonce):
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


class Blob:
    """A public key."""

    def __init__(self, blob):
        parts, rest = [], blob
        while rest:
            (length,) = struct.unpack(">I", rest[:4])
            parts.append(rest[4 : 4 + length])
            rest = rest[4 + length :]
        self.blob, self.kind = blob, parts.pop(0).decode()
        assert self.kind in (ED25519, FIDO_ED25519, P256, FIDO_P256)
        if self.kind in (P256, FIDO_P256):
            assert parts.pop(0) == CURVE
        self.key = parts.pop(0)
        self.application = parts.pop(0) if self.kind in (FIDO_ED25519, FIDO_P256) else None
        assert not parts

    def verify(self, signature, signed):
        if self.kind in (ED25519, FIDO_ED25519):
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, signed)
            return
        r, smaller = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
        if not 0 < r < ORDER or not 0 < smaller <= ORDER // 2:
            raise InvalidSignature
        assert self.key[0] == 4
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.key)
        key.verify(encode_dss_signature(r, smaller), signed, ec.ECDSA(hashes.SHA256()))


class Ed25519Signer:
    def __init__(self, seed):
        self.private = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = s(self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, signed, greater_s):
        return self.private.sign(signed)


class P256Signer:
    def __init__(self, number):
        self.private = ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1())
        point = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.key = s(CURVE) + s(point)

    def sign(self, signed, greater_s):
        r, either = decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
        smaller = min(either, ORDER - either)
        return r.to_bytes(32, "big") + (ORDER - smaller if greater_s else smaller).to_bytes(32, "big")


class Secrets:
    """What is derived."""

    def __init__(self, realm, cover, blob):
        self.blob = blob
        self.fingerprint = sha256(blob.blob)
        self.audience = sha256(realm.encode())
        self.prk = hmac.new(PROTOCOL, cover + blob.blob, hashlib.sha256).digest()
        self.packet_key = expand(self.prk, b"gate" + self.audience, 32)

    def key_id(self, day):
        return expand(self.prk, b"id" + self.audience + u32(day), 8)

    def associated_data(self, key_id):
        return PROTOCOL + self.audience + key_id

    def message(self, nonce, body):
        return PROTOCOL + self.audience + self.fingerprint + nonce + body


def to_be_signed(message):
    return b"SSHSIG" + s(b"spa-1@knockd") + s(b"") + s(b"sha512") + s(hashlib.sha512(message).digest())


def fido_signed(application, flags, counter, tbs):
    return sha256(application) + bytes([flags]) + u32(counter) + sha256(tbs)


def encode_body(request):
    address = request["address"]
    if address is None:
        packed = bytes(16)
    elif ":" in address:
        packed = ipaddress.IPv6Address(address).packed
    else:
        packed = bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(address).packed
    flags = (SOURCE if address is None else 0) | (WIDEN if request["widen"] else 0)
    operation = {"open": 1, "close": 2}[request["operation"]]
    head = struct.pack(">BBHIQ", 1, operation, flags, request["lifetime"], request["time"])
    return head + packed + (request["rule"] or "").encode().ljust(64, b"\0")


def decode_body(body):
    version, operation, flags, lifetime, time, packed, rule = struct.unpack(">BBHIQ16s64s", body)
    if version != 1:
        raise Refused("version")
    if operation not in (1, 2):
        raise Refused("operation")
    if flags & ~(SOURCE | WIDEN):
        raise Refused("flags")
    if operation == 2 and lifetime:
        raise Refused("lifetime")
    address = ipaddress.IPv6Address(packed)
    address = address.ipv4_mapped or address
    if flags & SOURCE:
        if any(packed):
            raise Refused("address")
        address = None
    elif address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise Refused("address")
    if not re.fullmatch(rb"[A-Za-z0-9_.-]{0,64}\0*", rule):
        raise Refused("rule")
    return {
        "operation": {1: "open", 2: "close"}[operation],
        "address": None if address is None else str(address),
        "widen": bool(flags & WIDEN),
        "lifetime": lifetime,
        "time": time,
        "rule": rule.rstrip(b"\0").decode() or None,
    }


def seal(given):
    """All values of a test vector, from its inputs."""
    kind, application = given["type"], given["application"]
    signer = {ED25519: Ed25519Signer, FIDO_ED25519: Ed25519Signer}.get(kind, P256Signer)(bytes.fromhex(given["seed"]))
    blob = Blob(s(kind.encode()) + signer.key + (b"" if application is None else s(application.encode())))
    secrets = Secrets(given["realm"], bytes.fromhex(given["cover"]), blob)
    nonce = bytes.fromhex(given["nonce"])
    body = bytes.fromhex(given["raw_body"]) if "raw_body" in given else encode_body(given)
    day = given.get("key_id_day", struct.unpack(">Q", body[8:16])[0] // DAY)
    key_id = secrets.key_id(day)
    message = secrets.message(nonce, body)
    tbs = to_be_signed(message)
    flags, counter = given["fido_flags"], given["fido_counter"]
    signed = tbs if application is None else fido_signed(application.encode(), flags, counter, tbs)
    reserved = bytes.fromhex(given.get("reserved", "000000"))
    if "signature" in given and kind in (P256, FIDO_P256):
        # ECDSA draws a random number, so the signature of a test vector is one of its inputs.
        signature = bytes.fromhex(given["signature"])
    else:
        signed_by_key = signer.sign(signed, given.get("greater_s", False))
        signature = signed_by_key + bytes([flags]) + u32(counter) + reserved
    padding = bytes.fromhex(given["padding_bytes"]) if "padding_bytes" in given else bytes(given["padding"])
    cipher, short_nonce = xchacha20poly1305(secrets.packet_key, nonce)
    sealed = cipher.encrypt(short_nonce, body + signature + padding, secrets.associated_data(key_id))
    values = {
        "blob": blob.blob, "fingerprint": secrets.fingerprint, "audience": secrets.audience, "prk": secrets.prk,
        "packet_key": secrets.packet_key, "key_id": key_id, "body": body, "message": message, "to_be_signed": tbs,
        "signature": signature, "packet": key_id + nonce + sealed,
    }
    return {name: value.hex() for name, value in values.items()}


def open_packet(given):
    """The request of a packet."""
    packet, blob = bytes.fromhex(given["packet"]), Blob(bytes.fromhex(given["blob"]))
    secrets = Secrets(given["realm"], bytes.fromhex(given["cover"]), blob)
    if not 216 <= len(packet) <= 471:
        raise Refused("length")
    key_id, nonce, sealed = packet[:8], packet[8:32], packet[32:]
    days = [day for day in range(given["today"] - 1, given["today"] + 2) if secrets.key_id(day) == key_id]
    if not days:
        raise Refused("key id")
    cipher, short_nonce = xchacha20poly1305(secrets.packet_key, nonce)
    try:
        plain = cipher.decrypt(short_nonce, sealed, secrets.associated_data(key_id))
    except InvalidTag:
        raise Refused("seal") from None
    body, signature, padding = plain[:96], plain[96:168], plain[168:]
    flags, counter, reserved = struct.unpack(">BI3s", signature[64:])
    tbs = to_be_signed(secrets.message(nonce, body))
    if any(reserved) or blob.application is None and (flags or counter):
        raise Refused("signature")
    signed = tbs if blob.application is None else fido_signed(blob.application, flags, counter, tbs)
    try:
        blob.verify(signature[:64], signed)
    except InvalidSignature:
        raise Refused("signature") from None
    if blob.application is not None and not flags & 1:
        raise Refused("touch")
    if any(padding):
        raise Refused("padding")
    request = decode_body(body)
    if request["time"] // DAY != days[0]:
        raise Refused("day")
    return request


def check(document):
    with open(document, encoding="utf-8") as file:
        vectors = json.loads(re.search(r"```json\n(.*?)```", file.read(), re.DOTALL).group(1))
    assert vectors, "there is no test vector"
    for vector in vectors:
        for name, value in seal(vector).items():
            assert vector[name] == value, f"{vector['name']}: {name} is {value}"
        request = open_packet({**vector, "today": vector["time"] // DAY})
        for name, value in request.items():
            assert vector[name] == value, f"{vector['name']}: {name} is {value}"
    print(f"{len(vectors)} test vectors agree")


def serve():
    for line in sys.stdin:
        given = json.loads(line)
        try:
            answer = {"seal": seal, "open": open_packet}[given.pop("command")](given)
        except Refused as refused:
            answer = {"refused": str(refused)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        sys.exit(__doc__)
