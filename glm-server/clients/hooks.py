"""Schemathesis' bodies are seldom about a model and a conversation that there are: so that the other fields are looked at, they get these."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        body.pop("model", None)
        if body.get("messages") and len(body) % 2:
            body["messages"] = [{"role": "user", "content": "Hello"}]
    return body
