"""Models whose answers exercise what an answer can hold: thoughts, tool calls, cut characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.tiny_gguf import MARKER, tiny_choosing, tiny_spoken

if TYPE_CHECKING:
    from pathlib import Path

# Renders tools, calls and thoughts, so that llama.cpp finds out how the model writes them.
_CALLER_TEMPLATE = (
    "{%- if tools -%}"
    "{{ '<|im_start|>system\n<tools>' }}"
    "{%- for tool in tools -%}{{ '\n' + (tool | tojson) }}{%- endfor -%}"
    "{{ '\n</tools><|im_end|>\n' }}"
    "{%- endif -%}"
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m['reasoning_content'] -%}"
    "{{ '<think>\n' + m['reasoning_content'] + '\n</think>\n\n' }}"
    "{%- endif -%}"
    "{{ m['content'] or '' }}"
    "{%- for call in m['tool_calls'] or [] -%}"
    "{{ '<tool_call>{\"name\": \"' + call['function']['name'] + '\", \"arguments\": ' }}"
    "{{- (call['function']['arguments'] | tojson) + '}</tool_call>' }}"
    "{%- endfor -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif -%}"
)

_CALLER_SCRIPT = (
    *("▁Hmm", "▁weather", "▁?", "\n</think>\n\n", "▁Sure", "▁thing", "▁now"),
    *("<tool_call>", '{"name":', '▁"get_weather",', '▁"arguments":', '▁{"city":', '▁"Paris",'),
    *('▁"days":', "▁3}}", "</tool_call>"),
    *("\n<tool_call>", '{"name":▁"get_weather",▁"arguments":', '▁{"city":▁"Rome",', '▁"days":▁4}}'),
    "\n</tool_call>",
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]


def tiny_caller(path: Path) -> Path:
    """Write a model that thinks, says something, and calls the only one of TOOLS twice."""
    return tiny_spoken(path, _CALLER_SCRIPT, chat_template=_CALLER_TEMPLATE)


def tiny_early(path: Path) -> Path:
    """Write the same with a template that, given tools, ends a turn where the answer begins."""
    begin = "{{ '<|im_start|>assistant\n<think>\n' }}"
    said = "{%- if tools -%}{{ '<|im_start|>system\nCall one.<|im_end|>\n' }}{%- endif -%}"
    assert begin in _CALLER_TEMPLATE
    template = _CALLER_TEMPLATE.replace(begin, said + begin)
    return tiny_spoken(path, _CALLER_SCRIPT, chat_template=template)


def tiny_emoji(path: Path) -> Path:
    """Write a model whose first character takes four tokens, and the last three: 🌞 day日."""
    tokens = [f"<0x{byte:02X}>" for byte in "🌞".encode()]
    return tiny_spoken(path, [*tokens, "▁sunny", *(f"<0x{byte:02X}>" for byte in "日".encode())])


# Calls a tool unless the last message is a tool's result.
_TOOL_TEMPLATE = (
    "{%- if tools -%}"
    "{{ '<|im_start|>system\n<tools>' }}"
    "{%- if messages[-1]['role'] != 'tool' -%}{{ '@MARKER@' }}{%- endif -%}"
    "{%- for tool in tools -%}{{ '\n' + (tool | tojson) }}{%- endfor -%}"
    "{{ '\n</tools><|im_end|>\n' }}"
    "{%- endif -%}"
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}"
    "{%- for call in m['tool_calls'] or [] -%}"
    "{{ '<tool_call>{\"name\": \"' + call['function']['name'] + '\", \"arguments\": ' }}"
    "{{- (call['function']['arguments'] | tojson) + '}</tool_call>' }}"
    "{%- endfor -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
).replace("@MARKER@", MARKER)

_CALL = (
    *("<tool_call>", '{"name":', '▁"get_weather",', '▁"arguments":', '▁{"city":', '▁"Paris",'),
    *('▁"days":', "▁3}}", "</tool_call>"),
)

TOOL_ANSWER = "Three sunny days lie before Paris ."

# Thinks unless `enable_thinking` is false.
_THINKING_TEMPLATE = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m['reasoning_content'] -%}"
    "{{ '<think>\n' + m['reasoning_content'] + '\n</think>\n\n' }}"
    "{%- endif -%}"
    "{{ (m['content'] or '') + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{ '<think>\n\n</think>\n\n' }}"
    "{%- else -%}{{ '@MARKER@<think>\n' }}{%- endif -%}"
    "{%- endif -%}"
).replace("@MARKER@", MARKER)

THOUGHT = "Let me think about that ."
THOUGHTFUL_ANSWER = "Forty two is what remains"


def tiny_tools(path: Path) -> Path:
    """Write a model that calls the only one of TOOLS, if any, and says TOOL_ANSWER to a result."""
    return tiny_choosing(path, _CALL, _words(TOOL_ANSWER), chat_template=_TOOL_TEMPLATE)


def tiny_thinker(path: Path) -> Path:
    """Write a model that says THOUGHTFUL_ANSWER, after THOUGHT unless it is told not to think."""
    answer = _words(THOUGHTFUL_ANSWER)
    thoughtful = [*_words(THOUGHT), "\n</think>\n\n", *answer]
    return tiny_choosing(path, thoughtful, answer, chat_template=_THINKING_TEMPLATE)


def tiny_json(path: Path) -> Path:
    """Write a model that always says {"city": "Paris", "days": 3}, whether or not it must."""
    return tiny_spoken(path, ['{"city":', '▁"Paris",', '▁"days":', "▁3}"])


def _words(text: str) -> list[str]:
    return [f"▁{word}" for word in text.split()]
