"""Tells schemathesis who may call what, by the published description itself, and how an HSM signs a request.

KEYWITNESS_TEST_ACCESS names a file: {"address", "trust_domain", "manager", "credentials": {role: secret},
"hsm": {"name", "seed"}}, the seed being that of the HSM's Ed25519 identity key, in hexadecimal.
"""

import base64
import hashlib
import json
import os
import re
import time
import urllib.request
from urllib.parse import urlsplit

import schemathesis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from requests.auth import AuthBase

with open(os.environ["KEYWITNESS_TEST_ACCESS"], encoding="utf-8") as file:
    ACCESS = json.load(file)
with urllib.request.urlopen(ACCESS["address"] + "/v1/openapi.json") as answer:
    PATHS = json.load(answer)["paths"]
IDENTITY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ACCESS["hsm"]["seed"]))
LABEL = b"keywitness/v1/request\0"


def text(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def signed(method: str, path: str, body: bytes) -> str:
    """The authorization header of an HSM's request (verifier/src/identity.rs)."""
    who = text(ACCESS["hsm"]["name"].encode()) + int(time.time()).to_bytes(8, "big") + os.urandom(32)
    audience = text(ACCESS["trust_domain"].encode()) + text(ACCESS["manager"].encode())
    message = audience + text(method.encode()) + text(path.encode()) + text(body) + who
    signature = IDENTITY.sign(LABEL + hashlib.sha256(LABEL + message).digest())
    return "Keywitness-HSM " + base64.urlsafe_b64encode(who + signature).rstrip(b"=").decode()


def operation(method: str, path: str) -> dict:
    for template, methods in PATHS.items():
        pattern = re.escape(template).replace(r"\{tile\}", ".*")
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]*", pattern), path):
            return methods.get(method.lower()) or next(iter(methods.values()))
    return {}


class Access(AuthBase):
    """Whatever one of those shows whom the description lets in."""

    def __call__(self, request):
        path = urlsplit(request.url).path
        for scheme, roles in (pair for entry in operation(request.method, path).get("security", []) for pair in entry.items()):
            if scheme == "hsm":
                body = request.body or b""
                body = body.encode() if isinstance(body, str) else body
                request.headers["authorization"] = signed(request.method, path, body)
            else:
                request.headers["authorization"] = "Bearer " + ACCESS["credentials"][roles[0]]
            break
        return request


schemathesis.auth.set_from_requests(Access())


@schemathesis.hook
def filter_body(context, body):
    """JSON Schema calls 1.0 an integer; a manager takes integers that are written as such."""

    def plain(value):
        match value:
            case float():
                return not value.is_integer()
            case dict():
                return all(map(plain, value.values()))
            case list():
                return all(map(plain, value))
            case _:
                return True

    return plain(body)


@schemathesis.serializer(
    "application/octet-stream",
    "application/vnd.keywitness.envelope",
    "application/vnd.keywitness.envelopes",
)
def serialize(context, value):
    return value if isinstance(value, bytes) else str(value).encode()
