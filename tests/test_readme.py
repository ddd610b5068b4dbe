"""The commands of the README and of the docs fit the programs; the programs' own tests run them."""

import configparser
import re
import shlex

import pytest
from launch import ROOT, WITHOUT_JAX, program

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARSE = """
import importlib, os, sys
from absl import flags
for program, arguments in {commands!r}:
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            sys.exit(f"does not fit {{program}}: {{arguments}}")
    else:  # flags are defined while others are parsed
        importlib.import_module(program)
        sys.argv = ["program", *arguments]
        flags.FLAGS(sys.argv)
        os._exit(0)
sys.exit(0)
"""


def lines_of(page):
    """Lines of the bash blocks of a page, with continued ones joined and comments left out."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def commands():
    """Program and arguments of every command."""
    return [
        (words[at + 1], words[at + 2 :])
        for page in PAGES
        for words in lines_of(page)
        for at, word in enumerate(words[:-1])
        if word == "-m" and words[at + 1].startswith("experiments.")
    ]


def test_commands_have_flags_that_their_programs_know():
    done = program("none", code=WITHOUT_JAX + PARSE.format(commands=commands()))
    assert done.returncode == 0, done.stderr


def test_most_programs_are_shown():
    known = {f"experiments.{path.stem}" for path in (ROOT / "experiments").glob("*.py")}
    shown = {program for program, _ in commands()}
    assert shown <= known
    assert len(shown) > 10


def test_all_that_is_installed_has_a_range():
    """Of packages an upper bound; of actions the commit, as a tag can be moved."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"].values()
    lines = "\n".join([setup["options"]["install_requires"], *extras]).splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    packages += re.findall(r'"(setuptools>.*?)"', (ROOT / "pyproject.toml").read_text())
    assert len(packages) > 30
    assert [line for line in packages if not re.search(r",<[\d.]+$", line)] == []
    steps = re.findall(r"uses: (.*)", (ROOT / ".github/workflows/ci.yml").read_text())
    assert steps
    assert [step for step in steps if not re.search(r"@[0-9a-f]{40} # v", step)] == []


def test_extras_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = {
        extra
        for page in PAGES
        for extras in re.findall(r"(?:-e \"\.|celsa_jax)\[([\w,]+)\]", page.read_text())
        for extra in extras.split(",")
    }
    assert {"test", "serve"} <= wanted <= set(setup["options.extras_require"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^):]*))?\)", page.read_text("utf-8")):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def anchors(page):
    """What a forge makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
