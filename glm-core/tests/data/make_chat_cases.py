#!/usr/bin/env python3
"""Makes chat/cases.json: chats and what transformers' apply_chat_template writes for them.

    python make_chat_cases.py

Versions used: transformers 5.23.0, Jinja2 3.1.6. Templates: chat/templates/*.jinja and the built-in ones in src/chat/templates (all written for
this project, in the manner of the published ones), and short ones below, one language feature each.
"""
import json
import pathlib

from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
BUILT_IN = HERE.parent.parent / "src/chat/templates"

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city, in °C & \"quoted\" <b>html</b>",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "城市名"},
        "days": {"type": "integer", "minimum": 1, "maximum": 18446744073709551615, "default": -7},
        "limits": {"type": "array", "items": {"type": "number"}, "default": [1.0, 0.1, 1e-5, 1e16, 1.5e300, -0.25, 100000.0]},
        "flags": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None, "enum": [True, False, None]},
        "empty": {}, "none": []},
        "required": ["city"]}}}
BARE = {"name": "noop", "description": "a tool without the wrapper 'function'", "parameters": {}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, **arguments):
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


# every template can render these
PLAIN = {
    "user": dict(messages=[user("Hi")]),
    "chinese": dict(messages=[{"role": "system", "content": "你是一位诗人。"}, user("写一首关于秋天的诗，「好」吗？")]),
    "multi_turn": dict(messages=[{"role": "system", "content": "Be short."}, user("Hi"), assistant("Hello."), user("Rain?"),
                                 assistant("No.\n\nSun."), user("Thanks")]),
    "no_generation": dict(messages=[user("Hi"), assistant("Hello.")], add_generation_prompt=False),
    "empty_content": dict(messages=[{"role": "system", "content": ""}, user(""), assistant(""), user("x")]),
    "null_content": dict(messages=[user("Hi"), assistant(None), user("again")]),
    "escapes": dict(messages=[user("tab\there \"quotes\" 'single' back\\slash \u0001 \u007f \u2028 🦙 <b>&amp;</b> {{ x }} {% y %}")]),
    "blanks": dict(messages=[user("  leading\n\n and trailing \n"), assistant("\n\n  answer  \n"), user("\u3000wide\u3000")]),
    "two_systems": dict(messages=[{"role": "system", "content": "A"}, user("Hi"), {"role": "system", "content": "B"}, user("Ho")]),
    "think": dict(messages=[user("1+1?"), assistant("<think>\nadd\n</think>\n\n2"), user("2+2?"), assistant("4"), user("3+3?")]),
    "no_think": dict(messages=[user("Hi"), assistant("<think></think>\nHo"), user("Hi /nothink")], enable_thinking=False),
    "do_think": dict(messages=[user("Hi")], enable_thinking=True),
    "clear_thinking": dict(messages=[user("a"), assistant("b", reasoning_content="because"), user("c")],
                           kwargs={"clear_thinking": False, "reasoning_effort": "high"}),
    "tools_only": dict(messages=[user("Weather?")], tools=[WEATHER, {"type": "function", "function": BARE}]),
}
# OpenAI's form of calls: templates of GLM-4.5 and later
TOOLS = {
    "calls": dict(tools=[WEATHER], messages=[
        user("Weather in Paris and Rome?"),
        assistant("", reasoning_content="Two calls.", tool_calls=[
            call("get_weather", city="Paris", days=2, limits=[1.0, 1e-5], flags=None, items={"a": [True]}, **{"quote\"d": "<é>"}),
            call("get_weather", city="Rome")]),
        {"role": "tool", "content": "{\"rain\": true}", "tool_call_id": "call_1"},
        {"role": "tool", "content": "sun", "tool_call_id": "call_2"},
        assistant("Rain, sun."), user("Thanks")]),
    "null_call": dict(tools=[WEATHER], messages=[user("x"), assistant(None, tool_calls=[call("noop")]), {"role": "tool", "content": "ok"}]),
    "after_last": dict(tools=[WEATHER], enable_thinking=False, messages=[
        user("x"), assistant("<think>hm</think>Let me see.", tool_calls=[call("get_weather", city="巴黎")]), {"role": "tool", "content": ""}]),
}
# GLM-4's own form
OBSERVATIONS = {
    "observation": dict(tools=[WEATHER], messages=[
        user("Weather in Paris?"), assistant("{\"city\": \"Paris\"}", metadata="get_weather"),
        {"role": "observation", "content": "{\"rain\": true}"}, assistant("It rains."), user("Thanks")]),
}
PARTS = {
    "parts": dict(messages=[{"role": "user", "content": [
        {"type": "text", "text": "What is "}, {"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "this?"}]}]),
}
FILES = {
    HERE / "chat/templates/glm4.jinja": [PLAIN, OBSERVATIONS],
    HERE / "chat/templates/glm45.jinja": [PLAIN, TOOLS, PARTS],
    HERE / "chat/templates/glm47.jinja": [PLAIN, TOOLS, PARTS],
    HERE / "chat/templates/glm52.jinja": [PLAIN, TOOLS, PARTS],
    HERE / "chat/templates/glm53_flash.jinja": [PLAIN, TOOLS, PARTS],
    HERE / "chat/templates/glm4v.jinja": [PLAIN, PARTS],
    BUILT_IN / "glm4.jinja": [PLAIN, OBSERVATIONS],
    BUILT_IN / "glm_z1.jinja": [PLAIN, OBSERVATIONS],
}

# one feature each; rendered with FEATURE_REQUEST
FEATURES = r"""
{{ messages[0]['content'] }}|{{ messages[-1].role }}|{{ messages[1:3] | length }}|{{ messages[::-1][0].content }}
{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }} {% endfor %}
{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ loop.nextitem.role if loop.nextitem is defined else '-' }};{% endfor %}
{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.s }}
{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f('q', b=2) }}
{% macro visible_text(content) %}{% if content is string %}{{ content }}{% elif content is iterable and content is not mapping %}{% for item in content %}{% if item is mapping and item.type == 'text' %}{{ item.text }}{% elif item is string %}{{ item }}{% endif %}{% endfor %}{% elif content is none %}{% else %}{{ content }}{% endif %}{% endmacro %}{{ visible_text(parts) }}|{{ visible_text('s') }}|{{ visible_text(none) }}|{{ visible_text(5) }}
{{ [text is string, text is iterable, text is mapping, text is sequence, data is mapping, data is iterable, data is sequence, parts is sequence, parts is mapping, none is none, missing is defined, missing is none, 1 is number, 1.0 is number, true is number, 1 is integer, 1.5 is float, true is boolean, missing is undefined] }}
{{ data.get('city') }}|{{ data.get('nope') }}|{{ data.get('nope', 'dflt') }}|{{ data['city'] }}|{{ data.nope }}|{{ data['nope'] is defined }}
{% for k, v in data.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in data %}{{ k }},{% endfor %}|{% for k, v in data | items %}{{ k }};{% endfor %}|{{ data.keys() | list | length }}|{{ data.values() | list | length }}
{% for k, v in data | dictsort %}{{ k }};{% endfor %}
{{ schema.items() | list | length }}|{% for k, v in schema.items() %}{{ k }}:{{ v }} {% endfor %}|{{ schema['items'] }}|{{ schema['keys'] }}
{{ data | tojson }}
{{ data | tojson(indent=2) }}
{{ data | tojson(indent=4, ensure_ascii=False) }}
{{ data | tojson(ensure_ascii=True) }}
{{ data | tojson(True) }}
{{ data | tojson(separators=(',', ':')) }}
{{ data | tojson(indent=2, separators=(';', '=')) }}
{{ data | tojson(sort_keys=True) }}
{{ data | tojson(indent=0) }}
{{ data | tojson(indent='\t') }}
{{ [] | tojson(indent=4) }}{{ {} | tojson(indent=4) }}{{ [[]] | tojson(indent=1) }}{{ none | tojson }}{{ true | tojson }}{{ 'a"\\b/<>&\'' | tojson }}
{{ {'a': 1, 2: [1.0, none, (1, 2)], none: 'x', true: false, 1.5: 1} | tojson }}
{{ (1, 'a') | tojson }}|{{ messages | tojson }}
{{ missing | tojson }}
{{ data }}
{{ parts }}
{{ [1, 'two', 3.0, none, true, {'a': "it's"}] }}|{{ {'k': [1e-7, 1e22, 0.1]} }}|{{ (1,) }}|{{ () }}
{{ 1.0 }} {{ 1e-5 }} {{ 1e16 }} {{ 0.1 + 0.2 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 4 / 2 }} {{ 10 ** 20 }} {{ 1_000 }}
{{ true }} {{ false }} {{ none }} {{ None }} {{ True and 'x' }} {{ '' or 'y' }} {{ not 0 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 }}|{{ 'a' + 'b' }}|{{ 'ab' * 3 }}|{{ 'b' in 'abc' }}|{{ 'x' not in ['a'] }}|{{ 'city' in data }}
{{ '  x y  '.strip() }}|{{ '  x  '.lstrip() }}|{{ '  x  '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.lstrip('ab') }}|{{ '\n\na\n'.rstrip('\n') }}|{{ '\u001c a\u3000\u0085'.strip() }}
{{ 'a</think>b</think>c'.split('</think>')[-1] }}|{{ 'a</think>b'.split('</think>')[0].split('<think>')[-1] }}|{{ ' a  b c '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a  b c '.split(none, 1) }}|{{ ' a  b c '.rsplit(None, 1) }}|{{ ''.split(',') }}|{{ ''.split() }}|{{ 'a b c d'.split(maxsplit=2) }}|{{ 'a-b'.split(sep='-') }}
{{ 'Abc'.upper() }}{{ 'Abc'.lower() }}{{ 'hELLO wORLD'.capitalize() }}{{ "they're bill's friends".title() }}{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.replace('b', 'X') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'abcabc'.find('c') }}{{ 'abc'.find('z') }}{{ 'aXbX'.count('X') }}{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}
{{ 'pre-x'.removeprefix('pre-') }}|{{ 'x.txt'.removesuffix('.txt') }}|{{ 'k=v=w'.partition('=') }}|{{ 'k=v=w'.rpartition('=') }}|{{ 'kv'.partition('=') }}|{{ 'kv'.rpartition('=') }}|{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'it’s ok'.title() }}
{{ 'a\nb\r\nc\x0bd\u2028e\n'.splitlines() }}|{{ 'a\nb'.splitlines(true) }}|{{ '\n'.join(['x', 'y']) }}|{{ ', '.join(data.keys()) }}
{{ 'x' | upper }}{{ ' x ' | trim }}{{ 'abc' | length }}{{ [3, 1, 2] | sort }}{{ [1, 2, 3] | first }}{{ [1, 2] | last }}{{ ['a', 'b'] | join('-') }}{{ missing | default('d') }}{{ '' | default('e', true) }}{{ 'abc' | replace('b', '') }}{{ [1, 1, 2] | unique | list }}{{ 'x' | string }}{{ '5' | int + 1 }}{{ 2.7 | int }}{{ 'hello there' | title }}{{ 'HELLO' | capitalize }}{{ [1, 2, 3] | sum }}{{ [1, 5, 2] | max }}{{ -3 | abs }}{{ 2.567 | round(2) }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | map(attribute='role') | join(',') }}|{{ messages | rejectattr('role', '==', 'user') | map(attribute='content') | list }}|{{ ['a', ''] | select | list }}|{{ [1, 2, 3, 4] | select('even') | list }}
{{ messages | groupby('role') | length }}|{{ range(3) | list }}|{{ range(1, 10, 3) | list }}|{{ 'ab' | list }}|{{ [1, 2, 3] | reverse | list }}|{{ 'abc' | reverse }}|{{ [[1, 2], [3]] | sum(start=[]) }}
{{ 'a\nb' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\nb' | indent(width=1, first=True) }}|{{ '<b>' | e }}|{{ '<b>' | safe }}|{{ 'x%sy' | format('1') }}|{{ '{}-{}'.format(1, 'a') }}
{%- for m in messages %}
    {%- if m.role == 'user' %}
U:{{ m.content }}
    {%- else %}
  X
    {%- endif %}
{% endfor %}
   {% if true %}
lstrip
   {% endif %}
  {# a comment #}
end
{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{{ m.content }}{% else %}none{% endfor %}|{% for x in [] %}{% else %}empty{% endfor %}|{% for x in missing %}x{% endfor %}
{% set a, b = [1, 2] %}{{ a }}{{ b }}{% set block %}in {{ a }}{% endset %}{{ block }}{% set a = 9 %}{% for i in [1] %}{% set a = 5 %}{% endfor %}{{ a }}{% if true %}{% set a = 6 %}{% endif %}{{ a }}
{% generation %}assistant text{% endgeneration %}|{%- generation -%}  x  {%- endgeneration -%}|
{{ raise_exception('Only user and assistant roles are supported!') }}
{{ missing.attribute }}
{{ none.attribute is defined }}|{{ data.a.b is defined }}
{{ missing }}|{{ missing is defined and missing.x }}|{{ (missing or {}).get('x', 'no') }}
{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}
{{ tools is none }}{{ tools is defined }}{{ documents is none }}{{ add_generation_prompt }}
{% if tools %}T{% endif %}{% if not tools and not missing %}N{% endif %}
{{ ns_missing if ns_missing is defined else 'd' }}{{ 'x' if false }}|{{ 1 if 2 > 1 else 3 }}|{{ 1 < 2 < 3 }}|{{ 1 == 1.0 }}|{{ 'a' < 'b' }}|{{ [1, 2] == [1, 2] }}|{{ data == data }}|{{ {'a': 1} == {'a': 1} }}
{{ dict(a=1, b='x') }}|{{ dict(a=1).a }}|{{ namespace(a=1).a }}|{{ [1, 2] + [3] }}|{{ [0] * 3 }}|{{ parts + [1] }}|{{ parts[0].text }}|{{ parts[0]['text'][1:] }}|{{ 'hello'[1:-1] }}|{{ 'hello'[::-1] }}|{{ '你好吗'[1] }}|{{ '你好吗' | length }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{% set j = joiner('-') %}{% for x in [1, 2] %}{{ j() }}{{ x }}{% endfor %}
{% with x = 1, y = 2 %}{{ x + y }}{% endwith %}{% filter upper %}abc{% endfilter %}{% raw %}{{ raw }}{% endraw %}
{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}in{% endcall %}
{{ {'a': {'b': [1, {'c': 'd'}]}}.a.b[1].c }}|{{ ('a', 'b')[0] }}|{{ [('a', 1), ('b', 2)] | map('first') | list }}|{% for a, b in [('a', 1), ('b', 2)] %}{{ a }}{{ b }}{% endfor %}
{{ "double 'in' single" }}{{ 'single "in" double' }}{{ "esc \" \n \t \u4f60 \x41" }}
{{ tojson_missing | default({}) | tojson }}|{{ text | tojson | length }}|{{ (data.nested | tojson).replace(' ', '') }}
{{ messages | map(attribute='content') | map('upper') | join(' ') }}|{{ messages | map('length') | list }}|{{ ['b', 'A'] | sort }}|{{ ['b', 'A'] | sort(case_sensitive=true) }}|{{ [{'n': 2}, {'n': 1}] | sort(attribute='n') }}
{{ 3 | string ~ 'x' }}|{{ "%.2f" | format(3.14159) }}|{{ 5 // 2 ~ '' }}
{{ text[0] | lower in 'aeiou' }}|{{ text.index('l') }}|{{ ['x', 'y'].index('y') }}
{% set x = {'a': 1} %}{% set y = dict(x, b=2) %}{{ y }}|{{ x.copy() }}|{{ data.pop is defined }}
{{ loop is defined }}|{% for i in range(2) %}{% for j in range(2) %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}|{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}|{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}|{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is not number else x }}{% endfor %}
"""
FEATURE_REQUEST = dict(
    messages=[{"role": "system", "content": "Sys"}, user("Hi"), assistant("Ho"), user("last")],
    kwargs={
        "text": "Hello 'x' \"y\"",
        "data": {"city": "北京", "n": 1, "f": 1.0, "tiny": 1e-5, "big": 18446744073709551615, "neg": -5, "yes": True, "no": None,
                 "s": "a\"b\\c\n\t\u0001\u007f<&>'é🦙\u2028", "list": [1, [2.5, []], {}], "nested": {"z": 1, "a": {"k": "v"}}},
        "parts": [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}],
        "schema": {"items": 1, "keys": 2, "get": 3, "values": 4},
    })


def features():
    """The templates above: one per line, but lines that begin a block go on to the next line that begins with '{{' or '{% '."""
    lines, templates = FEATURES.strip("\n").split("\n"), []
    open_block = False
    for line in lines:
        if open_block:
            templates[-1] += "\n" + line
            open_block = line not in ("{% endfor %}", "end")
        else:
            templates.append(line)
            open_block = line in ("{%- for m in messages %}", "   {% if true %}")
    return templates


def render(tokenizer, template, request):
    options = dict(request.get("kwargs", {}))
    if "enable_thinking" in request:
        options["enable_thinking"] = request["enable_thinking"]
    # a fresh copy: nothing that a template does may reach the next case
    request = json.loads(json.dumps(request))
    try:
        return {"text": tokenizer.apply_chat_template(
            request["messages"], tools=request.get("tools"), chat_template=template, tokenize=False,
            add_generation_prompt=request.get("add_generation_prompt", True), **options)}
    except Exception as error:  # what transformers refuses, so must we
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(HERE / "tokenizer/tokenizer.json"), eos_token="<|endoftext|>",
                                        pad_token="<|endoftext|>", bos_token="[gMASK]")
    files = []
    for path, groups in FILES.items():
        template = path.read_text()
        for group in groups:
            for name, request in group.items():
                where = ("built-in/" if path.parent == BUILT_IN else "") + path.name
                files.append({"template": where, "name": name, **render(tokenizer, template, request)})
    requests = {name: {("chat_template_kwargs" if key == "kwargs" else key): value for key, value in request.items()}
                for group in (PLAIN, TOOLS, OBSERVATIONS, PARTS) for name, request in group.items()}
    snippets = [{"template": t, **render(tokenizer, t, FEATURE_REQUEST)} for t in features()]
    feature_request = {"messages": FEATURE_REQUEST["messages"], "chat_template_kwargs": FEATURE_REQUEST["kwargs"]}
    cases = {"requests": requests, "files": files, "feature_request": feature_request, "features": snippets}
    (HERE / "chat/cases.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
    print(len(files), "rendered,", len(snippets), "features,", sum("error" in c for c in files + snippets), "refused")


if __name__ == "__main__":
    main()
