"""Every field that the installed clients can send is in the service's document: honoured, refused or known to change nothing."""

import json
import urllib.request

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from service import BASE

CLIENTS = [
    ("ChatCompletionRequest", chat_create_params.CompletionCreateParamsBase),
    ("CompletionRequest", completion_create_params.CompletionCreateParamsBase),
    ("EmbeddingRequest", embedding_create_params.EmbeddingCreateParams),
    ("ResponseRequest", response_create_params.ResponseCreateParamsBase),
    ("MessageRequest", message_create_params.MessageCreateParamsBase),
    ("MessageRequest", beta_message_create_params.MessageCreateParamsBase),
    ("CountTokensRequest", message_count_tokens_params.MessageCountTokensParams),
]


@pytest.mark.parametrize("name, params", CLIENTS, ids=[f"{name}-{params.__module__}" for name, params in CLIENTS])
def test_no_field_is_unknown(name, params):
    with urllib.request.urlopen(f"{BASE}/openapi.json") as document:
        schemas = json.load(document)["components"]["schemas"]
    known = set(schemas[name]["properties"])
    assert set(params.__annotations__) - known == set()
