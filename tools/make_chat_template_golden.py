#!/usr/bin/python3
"""Writes tests/golden/chat_template/*.json with jinja2 as oracle, set up as transformers' apply_chat_template does.

    make_chat_template_golden.py [--repo DIR]

models.json: the templates below (in the constructs of the published DeepSeek ones) and the demo model's, on conversations.
language.json: small templates, each with what jinja2 makes of it; null where jinja2 raises. Some are made at random.
"""
import argparse
import json
import os
import random

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

V2 = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}\
{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}\
{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}\
{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

V25 = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{{- bos_token -}}
{% for message in messages %}
    {%- if message['role'] == 'system' -%}
        {{ message['content'] }}
    {%- elif message['role'] == 'user' -%}
        {{ '<｜User｜>' ~ message['content'] }}
    {%- elif message['role'] == 'assistant' -%}
        {{ '<｜Assistant｜>' ~ message['content'] ~ eos_token }}
    {%- else -%}
        {{ raise_exception('unknown role ' + message['role']) }}
    {%- endif -%}
{% endfor -%}
{% if add_generation_prompt -%}
    {{ '<｜Assistant｜>' }}
{%- endif %}
"""

HEAD = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true, is_last_user=false) %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}\
{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}\
{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}\
{{ bos_token }}{{ ns.system_prompt }}"""

TOOL_CALLS = """{%- if message['role'] == 'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not none %}\
{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}\
{%- if message['content'] is none %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```' + '<｜tool▁call▁end｜>' }}\
{%- else %}{{ '<｜Assistant｜>' + message['content'] + '<｜tool▁calls▁begin｜>' + tool['function']['name'] + tool['function']['arguments'] | tojson + '<｜tool▁call▁end｜>' }}{%- endif %}\
{%- set ns.is_first = true -%}{%- else %}{{ '\\n' + '<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '<｜tool▁call▁end｜>' }}{%- endif %}\
{%- endfor %}{{ '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}{%- endif %}"""

TOOL_OUTPUT = """{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}\
{{ '<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}{%- set ns.is_output_first = false %}\
{%- else %}{{ '\\n<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}{%- endif %}{%- endif %}"""


def v3(strip_thinking, opening):
    content = ("{% set content = message['content'] %}{% if '</think>' in content %}"
               "{% set content = content.split('</think>')[-1] %}{% endif %}"
               if strip_thinking else "{% set content = message['content'] %}")
    return (HEAD + "{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}"
            "{{ '<｜User｜>' + message['content'] }}{%- endif %}" + TOOL_CALLS +
            "{%- if message['role'] == 'assistant' and (message['tool_calls'] is not defined or message['tool_calls'] is none) %}"
            "{%- if ns.is_tool %}{{ '<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{%- set ns.is_tool = false -%}"
            "{%- else %}" + content + "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- endif %}" + TOOL_OUTPUT +
            "{%- endfor -%}{% if ns.is_tool %}{{ '<｜tool▁outputs▁end｜>' }}{% endif %}"
            "{% if add_generation_prompt and not ns.is_tool %}{{ '" + opening + "' }}{% endif %}")


V31 = """{% if not thinking is defined %}{% set thinking = false %}{% endif %}""" + HEAD + """\
{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{%- set ns.is_last_user = true -%}\
{{ '<｜User｜>' + message['content'] }}{%- endif %}\
{%- if message['role'] == 'assistant' and (message['tool_calls'] is not defined or message['tool_calls'] is none) %}\
{%- if ns.is_last_user %}{{ '<｜Assistant｜>' }}{%- if message['prefix'] is defined and message['prefix'] and thinking %}{{ '<think>' }}{%- else %}{{ '</think>' }}{%- endif %}{%- endif %}\
{%- set ns.is_last_user = false -%}{%- set content = message['content'] -%}\
{%- if '</think>' in content %}{%- set content = content.split('</think>', 1)[1] -%}{%- endif %}\
{{ content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- if message['role'] == 'tool' %}\
{{ '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}{%- endif %}{%- endfor -%}\
{%- if add_generation_prompt and ns.is_last_user and not ns.is_tool %}{{ '<｜Assistant｜>' }}{%- if not thinking %}{{ '</think>' }}{%- else %}{{ '<think>' }}{%- endif %}{% endif %}"""

# As other checkpoints write: indices, slices, filters, loop variables, line breaks between the tags.
SLICED = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = 'Default.' %}
    {%- set rest = messages %}
{%- endif %}
{# the system prompt, always #}
{{ bos_token ~ '[S]' ~ system }}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) and rest | length > 1 and message.role != 'tool' %}
        {{- raise_exception('roles must alternate, message ' ~ loop.index) }}
    {%- endif %}
    {{- '[' ~ message.role ~ (' first' if loop.first) ~ (' last' if loop.last else '') ~ ']' }}
    {{- message['content'].strip() }}
    {%- if message.role == 'assistant' %}{{ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{ '\\n[assistant]' }}
{%- endif %}
"""

# What each template puts behind the last assistant message's content.
TEMPLATES = {"v2": (V2, EOS), "v2_5": (V25, EOS), "v3": (v3(False, "<｜Assistant｜>"), EOS),
             "r1": (v3(True, "<｜Assistant｜><think>\\n"), EOS), "v3_1": (V31, EOS), "sliced": (SLICED, EOS)}

U, A, S, T = "user", "assistant", "system", "tool"
CONVERSATIONS = [
    [(U, "Hello")], [(S, "Be brief."), (U, "Hello")], [(U, "1+1?"), (A, "2"), (U, "2+2?")],
    [(S, "One."), (S, "Two."), (U, "x")], [(U, "Hi"), (A, "<think>\nhm\n</think>\n\nHello!"), (U, "again")],
    [(U, "Hi"), (A, "a</think>b</think>c"), (U, "again")], [(U, "你好，世界 😀"), (A, "“quoted” \\n {{ x }} {% y %}"), (U, "\t\n ")],
    [(U, "weather?"), (T, "{\"t\": 1}"), (T, "two")], [(U, "weather?"), (T, "sunny"), (A, "It is sunny."), (U, "ok")],
    [], [(S, "only system")], [(U, "")], [("critic", "?")], [(U, "a"), (U, "b")], [(U, "a"), (A, ""), (U, "b")],
    [(U, "  padded  "), (A, "  padded \n"), (U, "\n")], [(U, "<｜User｜>'\"\\")],
]
# The last message is the assistant's and is continued.
CONTINUED = [
    [(U, "Write a poem"), (A, "Roses are")], [(U, "x"), (A, "")], [(U, "x"), (A, "of")], [(U, "x"), (A, EOS)], [(A, "alone")],
    [(U, "x"), (A, "y"), (U, "z"), (A, "Sure, 日本")], [(S, "s"), (U, "x"), (A, "a\nb ")], [(U, "a"), (A, "a")],
]

LANGUAGE = r"""
{{ 1 }}|{{ 'a' }}|{{ "b" }}|{{ true }}|{{ None }}|{{ false }}|{{ nothing }}
{{ 1 + 2 * 3 - 4 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % -3 }}|{{ -7 % 3 }}|{{ 2 * -3 }}|{{ true + 1 }}|{{ -true }}
{{ 'a' ~ 1 ~ none ~ true ~ nothing }}|{{ 'a' + 'b' 'c' }}|{{ 'ab' * 3 }}|{{ 2 * 'ab' }}|{{ 'ab' * -1 }}
{{ 1 ~ 2 + 3 }}
{{ 'x' if 1 > 2 }}|{{ 'x' if 1 < 2 else 'y' }}|{{ 'a' if false else 'b' if false else 'c' }}
{{ 1 < 2 < 3 }}|{{ 3 > 2 > 2 }}|{{ 1 == 1 == true }}|{{ 'a' < 'b' }}|{{ 'é' > 'z' }}|{{ 1 != 1 }}|{{ 2 >= 2 }}|{{ 2 <= 1 }}
{{ not true }}|{{ not not 1 }}|{{ not nothing is defined }}|{{ not 1 == 2 }}|{{ 0 or 'x' }}|{{ 1 and 'y' }}|{{ '' and 1 }}|{{ 0 or '' or none }}
{{ nothing == nothing2 }}|{{ nothing == none }}|{{ nothing != 1 }}|{{ none == false }}|{{ '' == 0 }}|{{ 1 == true }}|{{ [1, 'a'] == [true, 'a'] }}|{{ {'a': 1} == {'a': 1} }}|{{ [] == [[]] }}
{{ 'b' in 'abc' }}|{{ 'x' not in 'abc' }}|{{ 2 in [1, 2] }}|{{ 'a' in {'a': 1} }}|{{ 1 in {'a': 1} }}|{{ 1 in nothing }}|{{ '' in '' }}|{{ not 'x' in 'y' }}
{{ 'abc'[0] }}|{{ 'abc'[-1] }}|{{ 'abc'[5] }}|{{ '日本語'[1] }}|{{ [1, 2, 3][-2] }}|{{ [1][3] }}|{{ [1]['x'] }}|{{ 'abc'['x'] }}|{{ {'a': 5}['a'] }}|{{ {'a': 5}.a }}|{{ {'a': 5}.b }}|{{ 'abc'[true] }}
{{ 'abcdef'[1:3] }}|{{ 'abcdef'[:-2] }}|{{ 'abcdef'[-2:] }}|{{ 'abcdef'[::2] }}|{{ 'abcdef'[::-1] }}|{{ 'abcdef'[4:1:-2] }}|{{ 'abc'[10:] }}|{{ 'abc'[-10:2] }}|{{ '日本語'[1:] }}|{{ 'abc'[:] }}|{{ 'abc'[none:2] }}
{{ nothing[1:] }}
{% set x = 5 %}{{ x[1:] }}
{% set x = 'abc' %}{{ x['a':] }}
{% set x = {'a': 1} %}{{ x[1:] is defined }}
{{ 1 if messages is defined if true }}
{{ messages is defined not in [1] }}
{{ messages is string 'x' }}
{{ [1, 2, 3][1:] | join(',') }}|{{ [1, 2, 3][::-1] | join }}|{{ [][1:] | length }}|{{ [1, 2, 3][5:0:-1] | join('-') }}
{{ ([1] + [2, 3]) | join('+') }}|{{ [1, [2, 3]][1][0] }}|{{ [1, 2,] | length }}|{{ {'a': 1, 'b': 2,} | length }}
{{ '  a b '.strip() }}|{{ '  a b '.lstrip() }}|{{ '  a b '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaYX'.lstrip('yx') }}|{{ '…a…'.rstrip('…') }}|{{ ' a '.strip(none) }}
{{ 'a,b,,c'.split(',') | join('|') }}|{{ 'a,b,c'.split(',', 1) | join('|') }}|{{ 'a,b,c'.split(',', maxsplit=1)[1] }}|{{ ' a  b '.split() | join('|') }}|{{ 'a,b,c'.rsplit(',', 1) | join('|') }}|{{ ''.split(',') | length }}|{{ ''.split() | length }}|{{ 'abc'.split('</think>')[-1] }}|{{ 'a'.split('x', 0) | length }}|{{ 'a,b'.split(sep=',')[1] }}
{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith('bc') }}|{{ 'abc'.startswith('abcd') }}|{{ 'abc'.endswith('') }}|{{ 'aXbX'.replace('X', 'yy') }}|{{ 'abc' | replace('b', '') }}|{{ ', '.join(['a', 'b']) }}|{{ '-'.join('abc') }}
{% for k, v in {'a': 1, 'b': [2]}.items() %}{{ k }}={{ v | tojson }};{% endfor %}|{{ {'a': 1}.get('a') }}|{{ {'a': 1}.get('b') }}|{{ {'a': 1}.get('b', 2) }}|{{ {'a': 1, 'b': 2}.keys() | list | length }}|{{ {'a': 1, 'b': 2}.values() | join }}
{{ '  x ' | trim }}|{{ 5 | trim }}|{{ 'xax' | trim('x') }}|{{ nothing | default('d') }}|{{ '' | default('d') }}|{{ '' | default('d', true) }}|{{ none | d('e') }}|{{ none | d('e', boolean=true) }}|{{ nothing | d }}|{{ 1 | default(default_value=2) }}
{{ '日本' | length }}|{{ [1, 2] | count }}|{{ {'a': 1} | length }}|{{ nothing | length }}|{{ [3, 4] | first }}|{{ [3, 4] | last }}|{{ 'xyz' | first }}|{{ 'xyz' | last }}|{{ [] | first }}|{{ nothing | join }}|{{ 12 | string | length }}|{{ 'ab' | list | last }}
{{ {'a': [1, true, none, 'x"\n\\é\t\u0001\x7f/<>&\'']} | tojson }}|{{ [] | tojson }}|{{ {} | tojson }}|{{ {'a': [], 'b': {'c': 1}} | tojson(indent=2) }}|{{ [1, [2, {}]] | tojson(indent=4) }}|{{ 'a' | tojson }}|{{ {'b': 1, 'a': 2} | tojson }}
{{ 1 is defined }}|{{ nothing is defined }}|{{ nothing is undefined }}|{{ none is none }}|{{ none is not none }}|{{ 'a' is string }}|{{ 1 is number }}|{{ true is number }}|{{ true is integer }}|{{ true is boolean }}|{{ 1 is boolean }}|{{ {} is mapping }}|{{ [] is sequence }}|{{ 'a' is iterable }}|{{ 1 is iterable }}|{{ nothing is iterable }}|{{ none is sequence }}|{{ true is true }}|{{ 1 is true }}|{{ false is false }}|{{ {} is sequence }}|{{ nothing is sequence }}
{{ 1 is defined and nothing is not defined }}|{{ 'x' if nothing is none else 'y' }}|{{ (1 is string) or 2 }}
{{ nothing.x is defined }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(n=0, s='') %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns['n'] }}{{ ns.m is defined }}
{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% else %}none{% endfor %}
{% for x in [] %}{{ x }}{% else %}empty{% endfor %}|{% for x in nothing %}{{ x }}{% else %}empty{% endfor %}|{% for c in 'héy' %}{{ c }}.{% endfor %}|{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}
{% for x in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.previtem is defined }};{% endfor %}
{% for x in [1, 2] %}{% for y in 'ab' %}{{ x }}{{ y }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}{{ loop is defined }}
{% for (a, b) in [[1, 2], ['x', 'y']] %}{{ b }}{{ a }}{% endfor %}|{{ x }}|{% for x in range(2, 8, 3) %}{{ x }}{% endfor %}|{% for x in range(3, 0, -1) %}{{ x }}{% endfor %}|{% for x in range(0) %}{{ x }}{% endfor %}
{% if 0 %}a{% elif '' %}b{% elif [1] %}c{% else %}d{% endif %}|{% if {} %}a{% else %}b{% endif %}|{% if none %}{% elif nothing %}{% endif %}
{% for message in messages %}{{ message.role }}:{{ message['content'] }}{{ message.name is defined }};{% endfor %}{{ messages | length }}{{ messages[-1].role }}{{ messages[0].content | length }}
{% set a = [1, 2] %}{% set b = a + [3] %}{{ a | length }}{{ b | length }}{{ b[2] }}{{ a[1] + b[0] }}
{{ 'a\tb\nc\\d\'e\"f\x41\u00e9\U0001F600\q\/' }}|{{ "it's" }}|{{ 'say "x"' }}|{{ '{{ not a tag }}' }}|{{ '%}' }}|{{ "}}" }}
{{ {'a': {'b': 1}}['a']['b'] }}|{{ {'a':{'b':{}}}.a.b | length }}|x}}
{# comment #}a{#- b -#}  c{#+ d #}|{{- 1 -}}  |  {{- 2 }} {{+ 3 }}
{{ nothing.x }}
{{ none + 1 }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ nothing + 'a' }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 'a' < 1 }}
{{ 1 in 5 }}
{{ 1 in 'a' }}
{{ [1].a.b }}
{{ nothing[0] }}
{{ messages[9].role }}
{{ 'a'.split('') }}
{{ 'abc'[::0] }}
{{ raise_exception('boom') }}
{% for x in 5 %}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for x in none %}{% endfor %}
{% set x = 1 %}{% set x.y = 2 %}
{% set nope.y = 2 %}
{{ 'a'.split(1) }}
{{ (1).strip() }}
{{ nothing.strip() }}
{{ 5 | length }}
{{ nothing < 1 }}
{{ 1 +}}
{{ 1
{% if 1 %}
{% endif %}
{% for x in [1] %}
{% if 1 %}{% endfor %}{% endif %}
{{ ) }}
{{ 'abc }}
{# open
{{ a b }}
{% set %}
{{ [1, 2 }}
{% else %}
{{ 1 | }}
{{ x. }}
{{ $ }}
{{ 1 ! 2 }}
{{ range(stop=1, 2) }}
""".strip("\n").split("\n")

# White space control: one template each.
SPACES = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}  \n  b\n  {% endif %}  \nc\n\n", "  {% if true %}x{% endif %}\n",
    "  {%+ if true %}x{% endif %}", "a {%- if true -%} b {%- endif -%} c", "{% if true +%}\nb\n{% endif %}", "{{ 1 }}\n{{ 2 }}\n",
    "  {{ 1 }}\n  {{- 2 }}\n {{ 3 -}}\n  4", "{# c #}\na\n  {# d #}  \nb", "x {# e #}\ny", "{#- f #}\n g", "a\r\nb\rc\r\n{% if true %}\r\nd{% endif %}\r\n",
    "\n\n{% if true %}\n\n{% endif %}\n\n", "\t \t{% set x = 1 %}\n{{ x }}", "a{% set x = 1 %}   \n b", "{{ 1 -}} {% if true %}\n x{% endif %}",
    "{{ 1 -}}\n  {% if true %} x{% endif %}", "{% if true -%}\n\n  x\n\n{%- endif %}\ny", "\u00a0{%- if true %}x{% endif %}\u2003{% if true -%} \u2003 y{% endif %}",
    "a\n\u00a0 {% if true %}x{% endif %}", "a\x1f\n {%- if true %}x{% endif %}", "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n", "{% for i in [1, 2] -%}\n  {{ i }}\n{%- endfor %}\n",
    "a\n", "a\n\n", "\n", "", "{", "{ {", "a { b } % } c", "{%if true%}x{%endif%}", "{{1}}{{-2-}}{{3}}", "{% if true %}{# c #}\n  {% endif %}z", " {# c #}{% if true %} {% endif %}", "x\n {#- c -#} \n y", "{%- set x = 'a\nb' -%}\n{{ x }}",
    "{{\n1\n+\n2\n}}", "{%\nif\ntrue\n%}x{%\nendif\n%}", "   {{ '' }}   {% if true %}x{% endif %}", "a\n   {{ '' }}   {% if true %}x{% endif %}",
]


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


ENV = environment()


def as_messages(conversation):
    return [{"role": role, "content": content} for role, content in conversation]


def render(source, messages, add_generation_prompt):
    """What jinja2 gives; None if it raises."""
    try:
        return ENV.from_string(source).render(messages=messages, tools=None, documents=None, bos_token=BOS, eos_token=EOS,
                                              add_generation_prompt=add_generation_prompt)
    except Exception:  # pylint: disable=broad-except
        return None


def model_cases(templates):
    cases = []
    for name, (source, tail) in templates.items():
        for conversation in CONVERSATIONS:
            messages = as_messages(conversation)
            cases.append({"template": name, "messages": messages, "expected": render(source, messages, True)})
        for conversation in CONTINUED:
            messages = as_messages(conversation)
            text = render(source, messages, False)
            if text is not None:
                assert text.endswith(tail), (name, text)
                text = text[:-len(tail)]
            cases.append({"template": name, "messages": messages, "expected": text})
    return cases


class Expressions:
    """Random expressions over the subset; many of them raise, which is a result, too."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def make(self, depth):
        rng, leaf = self.rng, depth <= 0
        kind = rng.randrange(5) if leaf else rng.randrange(22)
        sub = lambda: self.make(depth - 1)
        if kind == 0:
            return str(rng.randint(0, 12))
        if kind == 1:
            return rng.choice(["'a'", "'ab b '", "''", "'日本x'", "'a,b'", "' '"])
        if kind == 2:
            return rng.choice(["true", "false", "none", "nothing", "n", "s"])
        if kind == 3:
            return rng.choice(["l", "d", "[]", "{}", "messages"])
        if kind == 4:
            return rng.choice(["loop", "loop.index", "x", "messages[0]", "d.a", "l[1]"])
        if kind <= 8:
            return f"{sub()} {rng.choice(['+', '-', '*', '//', '%', '~', '+', '~'])} {sub()}"
        if kind == 9:
            return f"{sub()} {rng.choice(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {sub()}"
        if kind == 10:
            return f"{sub()} {rng.choice(['and', 'or'])} {sub()}"
        if kind == 11:
            return rng.choice(["not ", "-", "+"]) + sub()
        if kind == 12:
            return f"({sub()})"
        if kind == 13:
            return f"({sub()})[{sub()}]"
        if kind == 14:
            part = lambda: rng.choice(["", str(rng.randint(-3, 3))])
            subject = rng.choice(["s", "l", "d", "n", "messages", "x", "nothing"])  # jinja2 folds constants with other rules
            return f"{subject}[{part()}:{part()}{rng.choice(['', ':' + part()])}]"
        if kind == 15:
            return f"({sub()}) | {rng.choice(['length', 'trim', 'string', 'first', 'last', 'tojson', 'default(1)', 'd(2, true)', 'list | length', 'replace(s, s)'])}"
        if kind == 16:
            return f"({sub()}) | join({rng.choice(['', sub()])})"
        if kind == 17:
            return f"({sub()}) is {rng.choice(['', 'not '])}{rng.choice(['defined', 'undefined', 'none', 'string', 'number', 'integer', 'boolean', 'mapping', 'sequence', 'iterable', 'true', 'false'])}"
        if kind == 18:
            return f"({sub()}).{rng.choice(['strip()', 'lstrip()', 'rstrip(s)', 'split()', 'startswith(s)', 'endswith(s)', 'a', 'b'])}"
        if kind == 19:
            return f"({sub()}).{rng.choice(['split', 'replace'])}({sub()}, {sub()})"
        if kind == 20:
            return f"{sub()} if {sub()}" + rng.choice(["", f" else {sub()}"])
        return rng.choice([f"[{sub()}, {sub()}]", f"{{'a': {sub()}, 'b': {sub()}}}"])

    def template(self):
        body = self.make(self.rng.randint(1, 3))
        return ("{% set n = 3 %}{% set s = 'b ' %}{% set l = [1, 'b', []] %}{% set d = {'a': 1, 'b': 'x'} %}{% for x in l %}{{ " +
                body + " }};{% endfor %}")


def language_cases():
    messages = as_messages([("user", "Hi"), ("assistant", "Hé"), ("user", "x")])
    cases = [{"source": source, "expected": render(source, messages, True)} for source in LANGUAGE + SPACES]
    expressions, wanted = Expressions(11), {True: 250, False: 100}
    while any(wanted.values()):
        source = expressions.template()
        expected = render(source, messages, True)
        raises = expected is None
        printed = expected is not None and not any(mark in expected for mark in ("[", "{", "<", "dict_"))
        if wanted[not raises] and (raises or printed):
            wanted[not raises] -= 1
            cases.append({"source": source, "expected": expected})
    return {"messages": messages, "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", default=os.path.join(os.path.dirname(__file__), ".."))
    repo = parser.parse_args().repo
    demo = json.load(open(os.path.join(repo, "models/demo/tokenizer_config.json"), encoding="utf-8"))["chat_template"]
    templates = dict(TEMPLATES, demo=(demo, EOS))
    oracle = {"oracle": f"jinja2 {jinja2.__version__}", "bos_token": BOS, "eos_token": EOS}
    models = dict(oracle, templates={name: source for name, (source, _) in templates.items()}, cases=model_cases(templates))
    for name, content in (("models", models), ("language", dict(oracle, **language_cases()))):
        with open(os.path.join(repo, f"tests/golden/chat_template/{name}.json"), "w", encoding="ascii") as f:
            json.dump(content, f, indent=0)
            f.write("\n")


if __name__ == "__main__":
    main()
