"""OpenAI's own client for Python against the service."""

import asyncio
import base64
import json
import struct
import threading
import time
from typing import Annotated

import openai
import pytest
from pydantic import BaseModel, Field

from service import BASE, MODEL, WEATHER

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=120)
HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters": WEATHER}}]
RESPONSE_TOOLS = [{"type": "function", "name": "weather", "description": "The weather in a city", "parameters": WEATHER, "strict": True}]


class City(BaseModel):
    # Values of bounded length: an answer has an end, whatever the model says.
    name: Annotated[str, Field(max_length=20)]
    inhabitants: Annotated[int, Field(ge=0, le=50_000_000)]


def chat(**options):
    options = {"model": MODEL, "messages": HELLO, "max_tokens": 40, "temperature": 0, **options}
    return client.chat.completions.create(**options)


# Chat completions


def test_an_answer():
    answer = chat()
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and choice.message.role == "assistant"
    assert choice.message.content and choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_a_stream_is_the_answer():
    whole = chat().choices[0]
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.message.content
    ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert ends == [whole.finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(c.usage is None for c in chunks[:-1])
    assert all(c.usage is None for c in chat(stream=True))


def test_the_stream_helper_puts_it_together():
    with client.chat.completions.stream(model=MODEL, messages=HELLO, max_tokens=40, temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds[-1] == "content.done" or "content.done" in kinds
    assert final.choices[0].message.content == chat().choices[0].message.content


def test_a_tool_is_called_and_its_result_read():
    answer = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 20 degrees"}
    after = chat(messages=[*HELLO, answer.choices[0].message, result], tools=TOOLS)
    assert after.choices[0].message.content is not None or after.choices[0].message.tool_calls


def test_calls_stream_in_parts():
    calls = {}
    for chunk in chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=200, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
            call["arguments"] += part.function.arguments or ""
    assert [call["name"] for call in calls.values()] == ["weather"] and calls[0]["id"]
    assert set(json.loads(calls[0]["arguments"])) == {"city"}


def test_answers_are_parsed():
    parsed = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "A city?"}], response_format=City, max_tokens=300, temperature=0
    )
    message = parsed.choices[0].message
    assert isinstance(message.parsed, City), message


def test_a_schema_is_kept_to():
    schema = {"name": "city", "strict": True, "schema": {**WEATHER}}
    answer = chat(response_format={"type": "json_schema", "json_schema": schema}, max_tokens=300)
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}
    assert chat(response_format={"type": "json_object"}, max_tokens=200).choices[0].message.content.startswith("{")


def test_log_probabilities():
    content = chat(logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content
    assert 0 < len(content) <= 4
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 and isinstance(token.bytes, list) for token in content)
    best = content[0].top_logprobs[0]
    assert best.token == content[0].token, "greedy"


def test_several_answers():
    answer = chat(n=3, temperature=1, seed=5, max_tokens=5, extra_body={"ignore_eos": True})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 15
    again = chat(n=3, temperature=1, seed=5, max_tokens=5, extra_body={"ignore_eos": True})
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices]


def test_extensions_go_through_extra_body():
    answer = chat(max_tokens=6, extra_body={"ignore_eos": True, "top_k": 1, "min_tokens": 6, "repetition_penalty": 1.1})
    assert answer.usage.completion_tokens == 6 and answer.choices[0].finish_reason == "length"


# Completions


def test_completions():
    one = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=6, temperature=0, logprobs=2)
    assert one.object == "text_completion" and one.choices[0].logprobs.tokens
    two = client.completions.create(model=MODEL, prompt=["Once upon", "The"], max_tokens=6, temperature=0)
    assert len(two.choices) == 2 and two.choices[0].text == one.choices[0].text
    stream = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=6, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == one.choices[0].text


def test_a_prompt_is_said_again():
    one = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=0, echo=True, logprobs=1)
    logprobs = one.choices[0].logprobs
    assert one.choices[0].text == "Once upon" and one.usage.completion_tokens == 0
    assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])


# Embeddings and models


def test_embeddings():
    # The client asks for base64 by itself, and unpacks it.
    both = client.embeddings.create(model=MODEL, input=["Hello", "The weather"])
    hello, weather = (item.embedding for item in both.data)
    assert len(hello) == len(weather) and abs(sum(v * v for v in hello) - 1) < 1e-4
    plain = client.embeddings.create(model=MODEL, input="Hello", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(hello, abs=1e-6)
    assert both.usage.prompt_tokens == both.usage.total_tokens > 0
    packed = client.embeddings.create(model=MODEL, input="Hello", encoding_format="base64").data[0].embedding
    assert list(struct.unpack(f"<{len(hello)}f", base64.b64decode(packed))) == pytest.approx(hello)


def test_models():
    listed = list(client.models.list())
    assert MODEL in [model.id for model in listed]
    assert client.models.retrieve(MODEL).id == MODEL


# Responses


def test_a_response_and_what_follows_it():
    first = client.responses.create(model=MODEL, input="Hello", instructions="Be brief.", max_output_tokens=40, temperature=0)
    assert first.status in ("completed", "incomplete") and first.output_text
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    again = client.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    items = client.responses.input_items.list(first.id)
    assert items.data[0].content[0].text == "Hello"
    second = client.responses.create(model=MODEL, input="And now?", previous_response_id=first.id, max_output_tokens=40)
    assert second.previous_response_id == first.id and second.usage.input_tokens > first.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="?", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"
    unkept = client.responses.create(model=MODEL, input="Hello", store=False, max_output_tokens=3)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_a_response_streams():
    whole = client.responses.create(model=MODEL, input="Hello", max_output_tokens=40, temperature=0, store=False)
    events = list(client.responses.create(model=MODEL, input="Hello", max_output_tokens=40, temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert client.responses.retrieve(events[-1].response.id).output_text == text


def test_the_response_stream_helper():
    with client.responses.stream(model=MODEL, input="Hello", max_output_tokens=200, temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text


def test_a_response_calls_a_tool():
    first = client.responses.create(
        model=MODEL, input="Weather in Rome?", tools=RESPONSE_TOOLS, tool_choice="required", parallel_tool_calls=False, max_output_tokens=200
    )
    call = next(item for item in first.output if item.type == "function_call")
    assert call.name == "weather" and set(json.loads(call.arguments)) == {"city"}
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    for history in ({"previous_response_id": first.id, "input": [output]}, {"input": [{"role": "user", "content": "Weather in Rome?"}, *first.output, output]}):
        after = client.responses.create(model=MODEL, tools=RESPONSE_TOOLS, max_output_tokens=60, **history)
        assert after.output


def test_a_response_is_made_in_the_background():
    response = client.responses.create(model=MODEL, input="Hello", background=True, max_output_tokens=40, temperature=0)
    assert response.status in ("queued", "in_progress") and response.background
    until = time.monotonic() + 60
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < until
        time.sleep(0.02)
        response = client.responses.retrieve(response.id)
    assert response.status in ("completed", "incomplete") and response.output_text
    client.responses.cancel(response.id)
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_is_parsed():
    parsed = client.responses.parse(model=MODEL, input="A city?", text_format=City, max_output_tokens=300, temperature=0)
    assert isinstance(parsed.output_parsed, City), parsed.output


# Errors, time and other threads


@pytest.mark.parametrize(
    "options, error, param",
    [
        ({"model": "nobody"}, openai.NotFoundError, "model"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 100_000}]}, openai.BadRequestError, None),
        ({"modalities": ["text", "audio"]}, openai.BadRequestError, "modalities"),
        ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
        ({"logit_bias": {"x": 1}}, openai.BadRequestError, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream_options"),
    ],
)
def test_errors_have_their_class(options, error, param):
    with pytest.raises(error) as caught:
        chat(**options)
    assert caught.value.param == param and caught.value.message and caught.value.request_id


def test_a_time_limit_is_kept():
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).chat.completions.create(
            model=MODEL, messages=HELLO, n=64, temperature=1, extra_body={"ignore_eos": True}
        )


def test_who_goes_away_frees_the_place():
    for _ in range(20):
        stream = chat(stream=True, max_tokens=None, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    assert chat().choices


def test_many_at_once():
    many = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=120)

    async def one(number):
        stream = await many.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"What is {number} plus 1?"}], max_tokens=20, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them():
        return await asyncio.gather(*(one(number) for number in range(16)))

    together = asyncio.run(all_of_them())
    alone = chat(messages=[{"role": "user", "content": "What is 7 plus 1?"}], max_tokens=20).choices[0].message.content
    assert together[7] == alone


def test_threads_share_a_client():
    found = []
    threads = [threading.Thread(target=lambda: found.append(chat().choices[0].message.content)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
