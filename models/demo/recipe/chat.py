"""The chat format: GLM-4-0414's prompt, with GLM-Z1's think block where thinking is asked for.

    [gMASK]<sop><|system|>↵S<|user|>↵U<|assistant|>              → ↵answer<|user|>
    …<|assistant|>                                               → tool↵{"argument": …}<|observation|>
    …<|assistant|>↵<think>                   (enable_thinking)   → thought</think>↵answer<|user|>
                                                                   thought</think>tool↵{…}<|observation|>

What follows the arrow is what the model writes. `TEMPLATE` is what inference uses; it knows OpenAI's `tool_calls` and
role `tool` besides GLM's `metadata` and `observation`. `prompt` is the same in Python, several times as fast; the tests
hold one against the other.
"""

import json
from dataclasses import dataclass

TEMPLATE = r"""
{%- macro text(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- elif content -%}
    {%- for part in content -%}
      {{- part if part is string else part.get('text', '') -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{- '[gMASK]<sop>' -}}
{%- if tools %}
  {{- '<|system|>\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，' -}}
  {{- '你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具' -}}
  {%- for tool in tools %}
    {%- set function = tool.function if tool.get('function') else tool %}
    {{- '\n## ' + function.name + '\n\n' + function | tojson(indent=4, ensure_ascii=False) -}}
    {{- '\n在调用上述函数时，请使用 Json 格式表示调用的参数。' -}}
  {%- endfor %}
{%- endif %}
{%- for message in messages if message.role == 'system' %}
  {{- '<|system|>\n' + text(message.content) -}}
{%- endfor %}
{%- for message in messages %}
  {%- if message.role == 'assistant' %}
    {%- set answer = text(message.content).split('</think>')[-1].strip() %}
    {%- set calls = message.get('tool_calls') or [] %}
    {%- if answer or not calls %}
      {{- '<|assistant|>' + (message.get('metadata') or '') + '\n' + answer -}}
    {%- endif %}
    {%- for call in calls %}
      {%- set function = call.function if call.get('function') else call %}
      {%- set arguments = function.arguments %}
      {{- '<|assistant|>' + function.name + '\n' -}}
      {{- arguments if arguments is string else arguments | tojson(ensure_ascii=False) -}}
    {%- endfor %}
  {%- elif message.role in ['tool', 'observation'] %}
    {{- '<|observation|>\n' + text(message.content) -}}
  {%- elif message.role != 'system' %}
    {{- '<|' + message.role + '|>\n' + text(message.content) -}}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|assistant|>' -}}
  {%- if enable_thinking %}
    {{- '\n<think>' -}}
  {%- endif %}
{%- endif %}
""".strip()

TOOLS_HEADER = ("<|system|>\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
                "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具")
TOOL_FOOTER = "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"


def history(messages, tools=()):
    """The prompt up to the point where somebody speaks next."""
    out = ["[gMASK]<sop>"]
    if tools:
        out.append(TOOLS_HEADER)
        for tool in tools:
            function = tool["function"]
            declaration = json.dumps(function, indent=4, ensure_ascii=False)
            out.append(f"\n## {function['name']}\n\n{declaration}{TOOL_FOOTER}")
    out += [f"<|system|>\n{message.content}" for message in messages if message.role == "system"]
    out += [f"<|{message.role}|>{message.metadata or ''}\n{message.content}" for message in messages
            if message.role != "system"]
    return "".join(out)


def prompt(conversation):
    """What the model is given to write a conversation's last message."""
    opening = "\n<think>" if conversation.thinking else ""
    return history(conversation.messages[:-1], conversation.tools) + "<|assistant|>" + opening


def completion(conversation):
    """What the model is to write, the token that ends it included."""
    last = conversation.messages[-1]
    thought = f"{last.thought}</think>" if conversation.thinking else ""
    end = "<|observation|>" if last.metadata else "<|user|>"
    return f"{thought}{last.metadata or ''}\n{last.content}{end}"


@dataclass
class Answer:
    """What a model wrote, taken apart: `text` is the answer, or the arguments if it calls a tool."""

    text: str
    call: str | None = None
    thought: str | None = None


def parse(written, thinking=False):
    """Takes apart what a model wrote after `prompt`."""
    thought = None
    if thinking:
        thought, closed, written = written.partition("</think>")
        if not closed:
            return Answer(text="", thought=thought)
    for end in ("<|user|>", "<|observation|>", "<|endoftext|>"):
        written = written.removesuffix(end)
    first, newline, rest = written.partition("\n")
    if newline and first:
        return Answer(text=rest, call=first, thought=thought)
    return Answer(text=rest if newline else written, thought=thought)
