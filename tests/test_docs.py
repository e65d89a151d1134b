"""What the documentation says is so: files and names exist, commands parse, code compiles, tables are whole."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dreamlab.cli import collect, compare, demo, dream, evaluate, listing, ls, plan, presets, report
from dreamlab.cli import envs as envs_command
from dreamlab.cli.flags import ask
from dreamlab.cli.main import main, verbs
from dreamlab.cli.options import TrainFlags, parse

ROOT = Path(__file__).parent.parent
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")))
PACKAGE = ROOT / "src" / "dreamlab"
PLACEHOLDERS = {"AGENT": "world-models", "ID": "tiny/Catch", "RUN": "runs/demo", "DIR": "runs/demo", "NAME": "smoke"}
PLACEHOLDERS |= {"ENV": "tiny/Catch", "FILE": "sweep.yaml", "FILE.yaml": "sweep.yaml"}
MADE_BY_A_RUN = re.compile(
    r"^(runs|checkpoints|replay|videos|dreams|pictures|evaluations)/|^(metrics\.jsonl|state\.json|best\.json|config\.yaml"
    r"|summary\.json|recordings\.json|report\.html|score\.json|error\.(json|txt)|paper\.json|events\..*"
    r"|summary\.md|results\.json|demo\.html|(scores|episodes|steps|time|aggregates|efficiency)\.png)$"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def pages() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")


def blocks(language: str) -> list[tuple[str, str]]:
    return [(name, body) for name, text in pages() for kind, body in FENCE.findall(text) if kind == language]


def spans(text: str) -> list[str]:
    """What stands in `backquotes`, outside of code blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))


# -- links, files, names -----------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The headings of a page as its links name them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: no {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page.name}: no heading for {target}"


def files_named(text: str) -> list[str]:
    found = [span.split("::")[0] for span in spans(text)]
    return [f for f in found if re.fullmatch(r"[\w./-]+\.(py|md|yaml|toml|txt|css|html|png|mp4)", f)]


def exists(name: str, page: Path) -> bool:
    places = (ROOT, page.parent, PACKAGE, ROOT / "src")
    if any((place / name).exists() for place in places):
        return True
    return "/" not in name and any(PACKAGE.rglob(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    own = set(re.findall(r"(?:^|[\"`# ])((?:my_lab|dreamlab)/[\w/]+\.py)", text))  # files that the reader is to write
    lost = [f for f in files_named(text) if not exists(f, page) and f not in own and not MADE_BY_A_RUN.search(f)]
    assert not lost, f"{page.name} names files that are not there: {lost}"


def names_of(path: Path) -> set[str]:
    """Functions, classes and constants at the top of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_places_written_file_and_name_are_there():
    found = 0
    for page, text in pages():
        for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", text):
            homes = [p for p in PACKAGE.rglob(Path(file).name) if p.as_posix().endswith(file)]
            assert any(name in names_of(home) for home in homes), f"{page}: no {name} in {file}"
            found += 1
    assert found > 20


# -- commands ------------------------------------------------------------------------------------------------------


def commands() -> list[tuple[str, str]]:
    """Every ``dreamlab ...`` line of the pages: in code blocks, and in backquotes where it is whole."""
    found = []
    for page, text in pages():
        for kind, body in FENCE.findall(text):
            if kind in ("bash", "sh", "console", "text", ""):
                lines = body.replace("\\\n", " ").splitlines()
                found += [(page, line.removeprefix("$ ").strip()) for line in lines]
        found += [(page, span) for span in spans(text)]
    shell = [(page, re.sub(r"^(\.venv/bin/|python -m )", "", line)) for page, line in found]
    return sorted({(page, line) for page, line in shell if re.match(r"dreamlab [a-z-]", line)})


def read(argv: list[str]) -> None:
    """Parse a command as its verb does, without running it. Raises SystemExit or UserError where it would."""
    verb, rest = argv[0], [PLACEHOLDERS.get(word, word) for word in argv[1:]]
    options = {"demo": demo.Options, "evaluate": evaluate.Options, "dream": dream.Options, "ls": ls.Options}
    options |= {"compare": compare.Options, "report": report.Options}
    for name in ("import", "publish", "export", "studio", "sweep"):
        options[name] = importlib.import_module(f"dreamlab.cli.{name}").Options
    if verb == "--version":
        return
    assert verb in verbs(), f"no verb {verb!r}"
    if verb in options:
        if rest or verb == "demo":
            ask(options[verb], rest, f"dreamlab {verb}")
    elif verb == "collect":
        if rest:
            collect.parse(rest)
    elif verb in ("train", "plan"):
        if rest[:1] == ["--run"] or "--config" in rest:  # needs a run that is there: the options alone are looked at
            rest = ["world-models", "--env", "tiny/Catch", *_without(rest, "--config")]
        own = {"my_lab.lazy": "random", "my_lab.coin:make": "tiny/Catch", "my_pkg.my_env:make": "tiny/Catch"}
        rest = [own.get(word, word) for word in rest]
        if rest:
            parse(rest, f"dreamlab {verb}", TrainFlags if verb == "train" else plan.Flags)
    elif verb == "envs" and rest[:1] == ["check"]:
        ask(envs_command.CheckFlags, rest[1:], "dreamlab envs check")
    else:
        ask({"presets": presets.PresetFlags}.get(verb, listing.Flags), rest, f"dreamlab {verb}")


def outcome(argv: list[str]) -> object:
    """The exit code of parsing a command: 0 where nothing is wrong with it."""
    try:
        read(argv)
    except SystemExit as left:
        return left.code
    return 0


def _without(words: list[str], option: str) -> list[str]:
    if option not in words:
        return words
    at = words.index(option)
    return words[:at] + words[at + 2 :]


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value)
def test_commands_parse(page: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    argv = shlex.split(line, comments=True)[1:]
    code = outcome([word.rstrip(",;") for word in argv if word != "..."])
    assert code == 0, f"{page}: {line}\n{capsys.readouterr().err}"


def test_every_verb_and_every_option_of_it_that_is_typed_is_found():
    found = commands()
    assert {line.split()[1] for _, line in found} >= set(verbs())
    assert outcome(["evaluate", "runs/demo", "--episode", "3"]) == 2
    assert outcome(["train", "world-models", "--env", "tiny/Catch", "--agent.vison.updates", "3"]) == 2
    with pytest.raises(AssertionError):
        read(["evalute", "runs/demo"])


def test_every_option_that_other_projects_options_become_exists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")  # no option is cut in two
    assert main(["train", "world-models", "--env", "CarRacing-v3", "--help"]) == 0
    there = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    text = (ROOT / "docs" / "from_other_projects.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    here = [span for row in rows for cell in row[2:4] for span in spans(cell) if not span.startswith("dreamlab ")]
    named = {option for span in here for option in re.findall(r"(?<!\S)--[\w.-]+", span)}
    assert len(named) > 30
    assert not named - there


# -- code ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "code"), blocks("python"), ids=lambda value: value[:40].strip())
def test_python_compiles_and_what_it_imports_from_here_is_there(page: str, code: str):
    for node in ast.walk(ast.parse(code, page)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamlab"):
            module = __import__(node.module or "", fromlist=[alias.name for alias in node.names])
            for alias in node.names:
                assert hasattr(module, alias.name), f"{page}: {node.module} has no {alias.name}"


def test_json_and_yaml_are_well_formed():
    for _, body in blocks("json"):
        json.loads(body)
    for _, body in blocks("yaml"):
        yaml.safe_load(body)


# -- numbers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smoke preset."""
    import torch

    folder, threads = tmp_path_factory.mktemp("docs") / "run", torch.get_num_threads()
    argv = ["train", "world-models", "--env", "tiny/Catch", "--preset", "smoke", "--run", str(folder)]
    try:
        assert main([*argv, "--threads", "1", "--env.no-workers"]) == 0
    finally:
        torch.set_num_threads(threads)
    return folder


def documented(table: str) -> set[str]:
    """The keys of one table of docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    part = text.partition(f"## {table}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| ([a-z]+/[a-z_]+) \|", part, re.M))


def test_every_metric_of_a_run_is_documented_and_none_is_invented(smoke: Path):
    lines = [json.loads(line) for line in (smoke / "metrics.jsonl").read_text().splitlines()]
    written = {key for line in lines for key in line} - {"step"}
    assert written - documented("Scalars") == set()
    assert documented("Scalars") - written == set()


def test_every_picture_of_a_run_is_documented(smoke: Path):
    drawn = {path.stem.replace("-", "/", 1) for path in (smoke / "pictures").glob("*.png")}
    assert drawn == documented("Pictures")


def test_the_run_folder_is_drawn_as_it_is(smoke: Path):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = text.partition("runs/<name>/\n")[2].partition("```")[0]
    for path in smoke.iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        name = "events.out.tfevents.*" if name.startswith("events.out") else name
        assert name in drawn, f"{name} is not in docs/architecture.md"


def test_scores_and_dreams_have_the_shapes_that_are_written_down(smoke: Path, tmp_path: Path):
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    shown = {
        title: json.loads(body)
        for title, body in re.findall(r"^### (evaluate|dream|plan) --json.*?```json\n(.*?)```", text, re.M | re.S)
    }
    score, error, cost = (tmp_path / f"{name}.json" for name in ("score", "error", "cost"))
    assert main(["evaluate", str(smoke), "--episodes", "2", "--json", str(score)]) == 0
    assert main(["dream", str(smoke), "--horizon", "3", "--context", "2", "--count", "0", "--json", str(error)]) == 0
    found = plan.plan(parse(["world-models", "--preset", "smoke"], "dreamlab plan", plan.Flags)[0]).to_dict()
    cost.write_text(json.dumps(found))
    for title, path in (("evaluate", score), ("dream", error), ("plan", cost)):
        assert skeleton(shown[title]) == skeleton(json.loads(path.read_text())), title


def skeleton(value: object) -> object:
    """The keys of nested objects; what a list holds is told by its first entry, and ``protocol.env`` by its id."""
    if isinstance(value, dict):
        return {k: skeleton(v) if k != "env" else type(v).__name__ for k, v in value.items()}
    if isinstance(value, list):
        return [skeleton(value[0])] if value else []
    return None


@pytest.mark.parametrize("preset", ["car-racing", "demo", "smoke"])
def test_plans_are_what_the_program_prints(preset: str, capsys: pytest.CaptureFixture[str]):
    """Where a preset has changed: paste what ``dreamlab plan world-models --preset NAME`` prints."""
    argv = ["plan", "world-models", "--preset", preset]
    assert main(argv) == 0
    said = capsys.readouterr().out.strip()
    text = (ROOT / "docs" / "world_models.md").read_text(encoding="utf-8")
    assert f"$ dreamlab {' '.join(argv)}\n{said}\n```" in text, f"docs/world_models.md should say:\n{said}"
