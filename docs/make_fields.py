"""Print docs/fields.md from the table of fields; a test compares the two."""

from satmip_data.metadata.fields import ALIASES, FIELDS

HEAD = """# The 15 metadata fields

Names, order and number formats are those of the authors' poster. Captions join them as `name: value, name: value`, or as sentences
with `--style sentence`; a missing field is left out, a zero is not missing. This page is printed by `docs/make_fields.py`.

| field | alias | unit | meaning | numeric columns | categorical columns |
| --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page as Markdown."""
    rows = []
    for field in FIELDS:
        numeric = ", ".join(f"{c.name} ({c.unit})" for c in field.columns if c.kind == "numeric")
        categorical = ", ".join(c.name for c in field.columns if c.kind == "categorical")
        rows.append(f"| {field.name} | {', '.join(field.aliases)} | {field.unit} | {field.about} | {numeric} | {categorical} |\n")
    groups = f"\n`angles` stands for {', '.join(ALIASES['angles'])}; `all` for all 15.\n"
    return HEAD + "".join(rows) + groups


if __name__ == "__main__":
    print(page(), end="")
