"""Hooks of the site's build: pages from elsewhere in the repository, and a check that nothing comes from other servers."""

import ast
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PROJECT_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
LOADING_LINKS = {"stylesheet", "preload", "modulepreload", "icon", "preconnect", "dns-prefetch"}

sys.path.insert(0, str(DOCS))
import make_departures  # noqa: E402


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand at the root of the repository, and each notebook as a page."""
    for name in PROJECT_PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    return files


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its text, its code, and a link to the file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in sources]
    return "\n\n".join([*parts, f"This page is a notebook: [{path.name}]({path.name})."])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ at the site's own pages, and print the departures where the method's page asks for them."""
    names = "|".join(re.escape(name) for name in PROJECT_PAGES)
    markdown = re.sub(rf"\]\(\.\./((?:\.\./)*(?:{names}))", r"](\1", markdown)
    return markdown.replace("<!-- departures -->", make_departures.listing()).replace("<!-- build options -->", build_options())


def build_options() -> str:
    """Return the options of `satmip_data.build` with their types, as one line of Markdown."""
    tree = ast.parse((ROOT / "satmip_data/api.py").read_text(encoding="utf-8"))
    (options,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "BuildOptions")
    typed = [node for node in options.body if isinstance(node, ast.AnnAssign)]
    return ", ".join(f"`{ast.unparse(node.target)}: {ast.unparse(node.annotation)}`" for node in typed) + "."


class _Loads(HTMLParser):
    """Addresses that a browser loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in LOADING:
            self.addresses.append(values.get(LOADING[tag], ""))
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").split()):
            self.addresses.append(values.get("href", ""))


def loaded_from_elsewhere(html: str) -> list[str]:
    """Return what a page would load from other servers."""
    parser = _Loads()
    parser.feed(html)
    return [address for address in parser.addresses if re.match(r"(https?:)?//", address)]


def on_post_build(config: MkDocsConfig) -> None:
    """Fail where a page or a style sheet loads anything from another server."""
    site = Path(config.site_dir)
    found = {str(p.relative_to(site)): loaded_from_elsewhere(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    for path in site.rglob("*.css"):
        found[str(path.relative_to(site))] = re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", path.read_text())
    outside = [f"{page} loads {address}" for page, addresses in found.items() for address in addresses]
    if outside:
        raise PluginError("Pages load from other servers: " + "; ".join(outside[:10]))
