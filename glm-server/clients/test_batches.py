"""Files and batches with OpenAI's own client for Python, and tasks as plain HTTP."""

import io
import json
import time
import urllib.error
import urllib.request

import openai
import pytest

from service import BASE, MODEL

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=120)
ENDED = ("completed", "failed", "expired", "cancelled")


def request(custom_id, **body):
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Hello {custom_id}"}], "max_tokens": 8, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(lines):
    text = "\n".join(json.dumps(line) for line in lines)
    return client.files.create(file=("requests.jsonl", io.BytesIO(text.encode())), purpose="batch")


def begin(lines, **options):
    options = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **options}
    return client.batches.create(input_file_id=upload(lines).id, **options)


def ended(batch):
    deadline = time.monotonic() + 120
    while batch.status not in ENDED:
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def results(file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_files():
    file = upload([request("a")])
    assert (file.object, file.purpose, file.filename, file.status) == ("file", "batch", "requests.jsonl", "processed")
    assert client.files.retrieve(file.id) == file
    assert json.loads(client.files.content(file.id).read()) == request("a")
    assert file.id in [listed.id for listed in client.files.list(purpose="batch")]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("a", b"b"), purpose="nothing")


def test_a_batch():
    names = [str(n) for n in range(20)]
    batch = begin([request(name) for name in names] + [request("hot", temperature=-1)], metadata={"kind": "test"})
    assert batch.status == "validating" and batch.metadata == {"kind": "test"}
    batch = ended(batch)
    counts = batch.request_counts
    assert batch.status == "completed" and (counts.total, counts.completed, counts.failed) == (21, 20, 1)
    answers = {line["custom_id"]: line["response"] for line in results(batch.output_file_id)}
    assert sorted(answers) == sorted(names)
    for response in answers.values():
        assert response["status_code"] == 200 and response["body"]["choices"][0]["message"]["role"] == "assistant"
    (error,) = results(batch.error_file_id)
    assert error["custom_id"] == "hot" and error["response"]["status_code"] == 400
    assert batch.id in [listed.id for listed in client.batches.list(limit=5)]


def test_a_batch_of_embeddings():
    texts = {"a": "one", "b": "two"}
    line = {"method": "POST", "url": "/v1/embeddings"}
    lines = [{"custom_id": name, "body": {"model": MODEL, "input": text}, **line} for name, text in texts.items()]
    batch = ended(begin(lines, endpoint="/v1/embeddings"))
    assert batch.status == "completed" and batch.request_counts.completed == 2
    for result in results(batch.output_file_id):
        direct = client.embeddings.create(model=MODEL, input=texts[result["custom_id"]], encoding_format="float")
        assert result["response"]["body"]["data"][0]["embedding"] == direct.data[0].embedding


def test_a_batch_that_is_none():
    batch = ended(begin([request("a"), request("a"), {"custom_id": "b"}]))
    assert batch.status == "failed" and batch.output_file_id is None
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "duplicate_custom_id"),
        (3, "missing_required_parameter"),
    ]
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h")
    assert refused.value.param == "input_file_id"


def test_a_batch_that_is_cancelled():
    batch = begin([request(str(n), max_tokens=400, ignore_eos=True) for n in range(300)])
    batch = client.batches.cancel(batch.id)
    assert batch.status in ("cancelling", "cancelled")
    batch = ended(batch)
    assert batch.status == "cancelled"
    lines = [line for file in (batch.output_file_id, batch.error_file_id) if file for line in results(file)]
    assert sorted(int(line["custom_id"]) for line in lines) == list(range(300))
    with pytest.raises(openai.NotFoundError):
        client.batches.cancel("batch_none")


def http(method, path, body=None):
    """Status and text of a plain request."""
    headers = {"content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(BASE + path, data, headers, method=method), timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_tasks():
    wanted = {"endpoint": "/v1/chat/completions", "body": request("a")["body"]}
    status, task = http("POST", "/v1/tasks", wanted)
    assert status == 202 and json.loads(task)["status"] == "queued"
    path = f"/v1/tasks/{json.loads(task)['id']}"
    _, events = http("GET", f"{path}/events")
    states = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    assert states[-1]["status"] == "completed" and states[-1]["result"]["object"] == "chat.completion"
    assert json.loads(http("GET", path)[1]) == states[-1]
    assert json.loads(http("DELETE", path)[1])["status"] == "completed"
    assert http("POST", "/v1/tasks", {**wanted, "body": {}})[0] == 400
