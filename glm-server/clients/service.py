"""Where the service is that the tests ask, and what they share."""

import os

BASE = os.environ["GLM_BASE_URL"].rstrip("/")
MODEL = os.environ.get("GLM_CLIENT_MODEL", "demo")

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
