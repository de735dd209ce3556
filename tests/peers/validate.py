"""Validates answers against JSON Schemas (2020-12), and nothing of ours.

Reads {"schemas": {name: schema}, "answers": [[name, value]]} from standard input; prints a list of what is wrong, at most
one complaint for each answer.
"""

import json
import sys

import jsonschema_rs

request = json.load(sys.stdin)
components = {"schemas": request["schemas"]}
validators = {}
complaints = []
for name, value in request["answers"]:
    if name not in validators:
        root = {"$ref": f"#/components/schemas/{name}", "components": components}
        validators[name] = jsonschema_rs.Draft202012Validator(root)
    error = next(validators[name].iter_errors(value), None)
    if error is not None:
        where = "/".join(str(part) for part in error.instance_path)
        complaints.append(f"{name} at /{where}: {error.message}")
json.dump(complaints, sys.stdout)
