"""Anthropic's own client for Python against the service."""

import asyncio
import json

import anthropic
import pytest

from service import BASE, MODEL, WEATHER

client = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0, timeout=120)
HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [{"name": "weather", "description": "The weather in a city", "input_schema": WEATHER}]


# The newest clients have no argument for it, the service has the field all the same.
GREEDY = {"temperature": 0}


def asked(**options):
    more = {**GREEDY, **options.pop("extra_body", {})}
    return {"model": MODEL, "messages": HELLO, "max_tokens": 40, "extra_body": more, **options}


def message(**options):
    return client.messages.create(**asked(**options))


def test_a_message():
    answer = message(system="Be brief.")
    assert (answer.type, answer.role) == ("message", "assistant")
    assert answer.content[0].type == "text" and answer.content[0].text
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 0 and answer.usage.output_tokens > 0
    assert answer._request_id.startswith("req_")


def test_a_stream_is_the_message():
    whole = message()
    with client.messages.stream(**asked()) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens
    kinds = [event.type for event in message(stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1


def test_a_tool_is_called_and_its_result_read():
    answer = message(tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}, max_tokens=200)
    call = answer.content[-1]
    assert answer.stop_reason == "tool_use" and (call.type, call.name) == ("tool_use", "weather")
    assert set(call.input) == {"city"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 20 degrees"}
    after = message(tools=TOOLS, messages=[*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}])
    assert after.content


def test_calls_stream_in_parts():
    named = {"type": "tool", "name": "weather"}
    with client.messages.stream(**asked(max_tokens=200, tools=TOOLS, tool_choice=named)) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    call = final.content[-1]
    assert json.loads("".join(parts)) == call.input and set(call.input) == {"city"}


def test_thoughts_come_where_they_are_asked_for():
    answer = message(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    assert all(block.type in ("thinking", "text") for block in answer.content)
    after = message(messages=[*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "And?"}])
    assert all(block.type == "text" for block in after.content)


def test_a_stop_sequence_is_named():
    text = message().content[0].text
    stop = text.split()[0][-3:]
    answer = message(stop_sequences=["never said", stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)


def test_tokens_are_counted():
    count = client.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief.").input_tokens
    usage = message(system="Be brief.").usage
    assert count == usage.input_tokens + usage.cache_read_input_tokens


def test_a_schema_is_kept_to():
    answer = message(output_config={"format": {"type": "json_schema", "schema": WEATHER}}, max_tokens=300)
    assert set(json.loads(answer.content[0].text)) == {"city"}


@pytest.mark.parametrize(
    "options, error, kind",
    [
        ({"model": "nobody"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "word " * 100_000}]}, anthropic.BadRequestError, "invalid_request_error"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
    ],
)
def test_errors_have_their_class(options, error, kind):
    with pytest.raises(error) as caught:
        message(**options)
    body = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == kind and body["error"]["message"]
    assert caught.value.request_id.startswith("req_")


def test_many_at_once():
    many = anthropic.AsyncAnthropic(base_url=BASE, api_key="none", max_retries=0, timeout=120)

    async def one():
        async with many.messages.stream(**asked(max_tokens=20)) as stream:
            return (await stream.get_final_message()).content[0].text

    async def all_of_them():
        return await asyncio.gather(*(one() for _ in range(8)))

    assert len(set(asyncio.run(all_of_them()))) == 1


def test_who_goes_away_frees_the_place():
    for _ in range(10):
        stream = message(stream=True, max_tokens=500, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    assert message().content
