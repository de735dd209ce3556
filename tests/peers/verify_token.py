"""Checks a verification token with PyJWT and the manager's key set, and nothing of ours.

Reads {"token", "jwks", "audience", "issuer", "nonce"} from standard input; prints the attested key's name.
Ends with 1 and the library's own words where the token is refused.
"""

import json
import sys

import jwt

request = json.load(sys.stdin)
try:
    keys = jwt.PyJWKSet.from_dict(request["jwks"])
    key = keys[jwt.get_unverified_header(request["token"])["kid"]]
    claims = jwt.decode(
        request["token"],
        key,
        algorithms=["ES256"],
        audience=request["audience"],
        issuer=request["issuer"],
        options={"require": ["exp", "iat", "aud", "iss"]},
    )
except (jwt.PyJWTError, KeyError) as refusal:
    print(f"{type(refusal).__name__}: {refusal}")
    sys.exit(1)
assert claims["eat_nonce"] == request["nonce"]
((name, appraisal),) = claims["submods"].items()
assert appraisal["ear_status"] == "affirming"
assert claims["cnf"]["jwk"]["crv"] == "X25519"
print(name)
