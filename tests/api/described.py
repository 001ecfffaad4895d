"""An OpenAPI description, and whether an answer is as it says."""

import copy
import json
import re

import jsonschema_rs


class Described:
    """A description. Fields that are not in it are no part of an answer."""

    def __init__(self, description):
        self.description = description
        self.closed = closed(description)
        self.validators = {}

    def problems(self, method, path, answer):
        """What is wrong with an answer."""
        status, headers, body = answer
        template, operation = self.operation(method, path)
        response = operation["responses"].get(str(status))
        if response is None:
            return [f"{method} {template}: status {status} is not described: {body[:300]}"]
        content = response.get("content")
        if content is None:
            return [f"{method} {template}: a body that is not described: {body[:300]}"] if body else []
        kind = headers.get("content-type", "")
        if kind not in content:
            return [f"{method} {template}: {status} is {kind!r}, described are {list(content)}"]
        missing = [name for name in response.get("headers", {}) if name.lower() not in headers]
        found = [f"{method} {template}: {status} lacks the header {name}" for name in missing]
        if kind == "application/json":
            errors = self.validator(content[kind]["schema"]).iter_errors(json.loads(body))
            found += [
                f"{method} {template}: {status}: at {'/'.join(map(str, error.instance_path))}: {error.message[:300]}"
                for error in errors
            ]
        return found

    def operation(self, method, path):
        path = path.split("?")[0]
        for template, item in self.description["paths"].items():
            pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path) and method.lower() in item:
                return template, item[method.lower()]
        raise AssertionError(f"{method} {path} is not described")

    def validator(self, schema):
        """A validator of a schema, references and formats and all."""
        key = json.dumps(schema)
        if key not in self.validators:
            whole = {**schema, "components": self.closed["components"]}
            self.validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self.validators[key]


def closed(description):
    """The same description with objects that hold nothing but what is described."""
    description = copy.deepcopy(description)
    schemas = description["components"]["schemas"]
    parts = set()

    def note(schema):
        if isinstance(schema, dict):
            parts.update(item["$ref"].rsplit("/", 1)[1] for item in schema.get("allOf", []) if "$ref" in item)
            for value in schema.values():
                note(value)
        elif isinstance(schema, list):
            for value in schema:
                note(value)

    note(schemas)
    for name, schema in schemas.items():
        # What is a part of another is closed with the whole.
        if name not in parts and ("properties" in schema or "allOf" in schema):
            schema["unevaluatedProperties"] = False
    return description
