"""What schemathesis makes, as a program would send it."""

import schemathesis


def written(value):
    """JSON Schema takes 7.0 for a whole number; who writes whole numbers writes 7."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [written(item) for item in value]
    if isinstance(value, dict):
        return {key: written(item) for key, item in value.items()}
    return value


@schemathesis.hook
def map_body(context, body):
    return written(body)
