#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""build_docs.py FOLDER: makes a site of the Markdown files of this repository and checks every link of it.

Pages: README.md (index.html), the other Markdown files beside it and docs/*.md. A link to a file or folder of the repository that is no
page is checked and becomes plain text with a path; so the site holds only pages and their pictures. A link must lead to a page, a
heading of one, a picture or a file that exists; links to other hosts are not followed. Needs python3-markdown. Exit status 1, after a
list, when a link leads nowhere."""

import html.parser
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import markdown

ROOT = Path(__file__).resolve().parent.parent
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem 1.5rem 4rem; color: #1d2330; background: #fff }}
nav {{ border-bottom: 1px solid #d5dae3; padding-bottom: .6rem; margin-bottom: 1.2rem }}
nav a {{ margin-right: 1rem; white-space: nowrap }}
a {{ color: #0a5fb4 }}
pre, code {{ font-family: ui-monospace, monospace; font-size: .9em; background: #f2f4f8 }}
pre {{ padding: .8rem; overflow-x: auto }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ border: 1px solid #d5dae3; padding: .25rem .6rem; text-align: left; vertical-align: top }}
img {{ max-width: 100% }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #dfe4ee; background: #14181f }}
  pre, code {{ background: #1f2530 }}
  a {{ color: #7ab7ff }}
  nav, th, td {{ border-color: #39414f }}
}}
</style>
</head>
<body>
<nav>{navigation}</nav>
{body}
</body>
</html>
"""


class Anatomy(html.parser.HTMLParser):
    """The links and the places to link to of one page."""

    def __init__(self):
        super().__init__()
        self.links = []
        self.places = set()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if values.get("id"):
            self.places.add(values["id"])
        for name in ("href", "src"):
            if tag in ("a", "img") and values.get(name):
                self.links.append(values[name])


def sources():
    beside = sorted(ROOT.glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    return [path.relative_to(ROOT) for path in beside + sorted((ROOT / "docs").glob("*.md"))]


def page_of(source):
    return Path("index.html") if source == Path("README.md") else source.with_suffix(".html")


def slug(text, separator):
    """The name of a heading as forges give it: "What runs, and how" is what-runs-and-how."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def title_of(source, text):
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading.group(1).strip() if heading else source.stem


def relative(target, page):
    return os.path.relpath(target, page.parent)


def build(out):
    """Writes the pages; returns what is wrong with their links."""
    pages = {source: (ROOT / source).read_text(encoding="utf-8") for source in sources()}
    problems, anatomy, pictures = [], {}, set()
    for source, text in pages.items():
        page = page_of(source)

        def rewrite(match, source=source, page=page):
            opening, link, closing = match.groups()
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not parts.path:
                return match.group(0)
            target = Path(os.path.normpath(source.parent / unquote(parts.path)))
            if not (ROOT / target).exists() or target.is_absolute() or target.parts[0] == "..":
                problems.append(f"{source}: {link} does not exist")
                return match.group(0)
            if target in pages:
                new = relative(page_of(target), page) + (f"#{parts.fragment}" if parts.fragment else "")
            elif target.suffix in (".svg", ".png"):
                pictures.add(target)
                new = relative(target, page)
            else:
                new = "#"
            return opening + new + closing

        converter = markdown.Markdown(
            extensions=["tables", "fenced_code", "toc", "sane_lists"], extension_configs={"toc": {"slugify": slug}}
        )
        body = re.sub(r'(<(?:a|img)\b[^>]*?\b(?:href|src)=")([^"]+)(")', rewrite, converter.convert(text))
        body = re.sub(r'<a href="#">(.*?)</a>', r"\1", body, flags=re.DOTALL)
        navigation = "".join(
            f'<a href="{relative(page_of(other), page)}">{title_of(other, content)}</a>' for other, content in pages.items()
        )
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        content = PAGE.format(title=title_of(source, text), navigation=navigation, body=body)
        (out / page).write_text(content, encoding="utf-8")
        anatomy[page] = Anatomy()
        anatomy[page].feed(content)
    for picture in pictures:
        (out / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / picture, out / picture)
    return problems + broken(out, anatomy)


def broken(out, anatomy):
    """Links of the finished site that lead nowhere."""
    problems = []
    for page, parts in anatomy.items():
        for link in parts.links:
            split = urlsplit(link)
            if split.scheme or split.netloc:
                continue
            target = Path(os.path.normpath(page.parent / unquote(split.path))) if split.path else page
            if not (out / target).is_file():
                problems.append(f"{page}: {link} leads to no page")
            elif split.fragment and (target not in anatomy or unquote(split.fragment) not in anatomy[target].places):
                problems.append(f"{page}: {link}: no heading of that name")
    return problems


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    out = Path(sys.argv[1])
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    problems = build(out)
    for problem in problems:
        print(problem)
    print(f"{len(sources())} pages in {out}, {len(problems)} links that lead nowhere")
    sys.exit(1 if problems else 0)


main()
