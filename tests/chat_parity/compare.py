# SPDX-License-Identifier: Apache-2.0
"""compare.py NFLOAT PATH...: conversations through chat templates by jinja2, in the environment of Transformers'
apply_chat_template, and by `nfloat chat --render`. PATH: a .jinja file, a tokenizer_config.json, or a folder searched for both."""
import datetime, json, os, subprocess, sys, tempfile

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


def user(text): return {"role": "user", "content": text}
def assistant(text): return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief. <b>\"\u00e9\"</b>"}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Name"}, "days": {"type": "integer", "enum": [1, 7]}}, "required": ["city"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"city": "K\u00f6ln", "days": 7}}}]}
ANSWER = {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "12 degrees"}
TALKS = [[user("Hi")], [user("\u3000Hi\u00a0"), assistant("a\u2028b stra\u00dfe")], [SYSTEM, user("Hi\n")], [user(" a "), assistant("b"), user("c")], [SYSTEM, user("1"), assistant("<think>\nt\n</think>\n\n2"), user("3")],
         [user("w?"), CALL, ANSWER], [SYSTEM, user("w?"), CALL, ANSWER, assistant("It is 12."), user("Thanks")]]


def sources(paths):
    for path in paths:
        files = [path]
        if os.path.isdir(path):
            files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
                           if name.endswith(".jinja") or name == "tokenizer_config.json")
        for file in files:
            with open(file, encoding="utf-8") as opened:
                text = opened.read()
            special = {"bos_token": "<s>", "eos_token": "</s>"}
            if file.endswith(".json"):
                config = json.loads(text)
                text = config.get("chat_template")
                special = {k: v["content"] if isinstance(v, dict) else v for k, v in config.items() if k.endswith("_token") and isinstance(v, (str, dict))}
            if isinstance(text, str):
                yield file, text, special


def main():
    nfloat, env = sys.argv[1], environment()
    same = refused = different = count = 0
    with tempfile.TemporaryDirectory() as scratch:
        for file, text, special in sources(sys.argv[2:]):
            count += 1
            with open(os.path.join(scratch, "chat_template.jinja"), "w", encoding="utf-8") as out:
                out.write(text)
            bad = 0
            for messages in TALKS:
                for more in ({}, {"add_generation_prompt": True}, {"tools": TOOLS}, {"tools": TOOLS, "add_generation_prompt": True, "enable_thinking": False}):
                    given = {**special, "messages": messages, **more}
                    try:
                        want = env.from_string(text).render(**{"tools": None, "documents": None, "add_generation_prompt": False, **given})
                    except Exception as error:
                        want, why = None, f"{type(error).__name__}: {error}"
                    conversation = os.path.join(scratch, "conversation.json")
                    with open(conversation, "w", encoding="utf-8") as out:
                        json.dump(given, out)
                    run = subprocess.run([nfloat, "chat", scratch, "--render", conversation], capture_output=True)
                    found = run.stdout.decode() if run.returncode == 0 else None
                    if found == want:
                        same, refused = same + (want is not None), refused + (want is None)
                        continue
                    different += 1
                    bad += 1
                    if bad == 1:
                        print(f"DIFFERENT {file}: {(run.stderr.decode() if found is None else repr(found))[:400]}\n  expected {why if want is None else repr(want)[:400]}")
            if bad:
                print(f"{file}: {bad} different")
    print(f"{count} templates: {same} the same, {refused} refused by both, {different} different")
    return different != 0


if __name__ == "__main__":
    sys.exit(main())
