"""What surrounds the code says what is so: metadata, workflows, lock file, citation, and the archive of the sources."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from acutance.io.yaml_files import read_yaml

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()


def jobs(path):
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path):
    return [step for job in jobs(path).values() for step in job.get("steps", ())]


def targets():
    return {name for line in re.findall(r"^([a-z][\w\- ]*):(?!=)", MAKEFILE, re.M) for name in line.split()}


def test_the_workflows_are_those_that_a_project_needs():
    assert {"lint", "tests", "docs", "release"} <= {path.stem for path in WORKFLOWS}
    for path in WORKFLOWS:
        document = yaml.safe_load(path.read_text())
        assert document["name"] == path.stem and document["permissions"] == {"contents": "read"}, path
        for job in document["jobs"].values():
            assert "uses" in job or job["timeout-minutes"] <= 120, path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_is_there(path):
    known = targets()
    assert {"setup-locked", "test", "test-oldest", "test-newest"} <= known
    for step in steps(path):
        assert ("run" in step) != ("uses" in step), step
        for target in re.findall(r"make ([\w-]+(?:\$\{\{ matrix\.bound \}\})?)", step.get("run", "")):
            names = [target.replace("${{ matrix.bound }}", one) for one in ("oldest", "newest")]
            assert set(names) <= known, (path.name, target)


def test_actions_are_pinned_by_commit():
    texts = [re.sub("^ *#.*", "", path.read_text(), flags=re.M) for path in WORKFLOWS]
    uses = [one for text in texts for one in re.findall(r"uses: (.+)", text)]
    assert len(uses) == sum("uses" in step for path in WORKFLOWS for step in steps(path)) > 10
    # A tag can be moved, a commit cannot; the version beside it is what is kept up to date.
    assert all(re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses), uses
    assert len({one.partition("@")[0] for one in uses}) == len(set(uses)), "one version of an action"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_checkout_leaves_no_credentials(path):
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, step


def test_the_tests_run_on_every_python_that_is_claimed():
    claimed = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    (matrix,) = [
        job["strategy"]["matrix"] for name, job in jobs(ROOT / ".github/workflows/tests.yml").items() if name == "tests"
    ]
    assert set(matrix["python"]) == claimed == {"3.11", "3.12", "3.13"}
    assert PROJECT["requires-python"] == ">=3.11"
    # The oldest dependencies have no wheels for the newest Python, nor the other way round.
    bounds = jobs(ROOT / ".github/workflows/tests.yml")["bounds"]["strategy"]["matrix"]["include"]
    assert bounds == [{"bound": "oldest", "python": "3.11"}, {"bound": "newest", "python": "3.13"}]


def test_a_release_is_published_without_a_token():
    publish = jobs(ROOT / ".github/workflows/release.yml")["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["needs"] == "build"
    assert "password" not in json.dumps(publish) and "secrets" not in json.dumps(publish)
    assert not any("run" in step for step in publish["steps"])  # what has the right to publish runs nothing of ours


def test_the_forms_for_issues_are_complete():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert form["name"] and form["description"], path
            assert all(
                part["type"] in ("textarea", "input", "checkboxes") and part["attributes"]["label"]
                for part in form["body"]
            )
    template = (ROOT / ".github" / "pull_request_template.md").read_text()
    for name in re.findall(r"make ([\w-]+)", template):
        assert name in targets()
    for path in re.findall(r"`(?:python )?((?:registry|tests)/[\w/.]+\.py)", template):
        assert (ROOT / path).exists(), path


def test_the_citation_is_that_of_this_version():
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["title"] and citation["message"] and citation["authors"]
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)


def test_addresses_of_the_repository_are_those_of_the_metadata():
    home = PROJECT["urls"]["Homepage"]
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
    for path in (".github/ISSUE_TEMPLATE/config.yml", "docs/install.md", "docs/llms.txt"):
        for url in re.findall(r"https://github\.com/acutance[\w./-]*", (ROOT / path).read_text()):
            assert url.startswith(home), (path, url)


def locked():
    pattern = r"^([\w.-]+)==([^\s;]+)"
    return {
        name.lower(): version
        for name, version in re.findall(pattern, (ROOT / "requirements-dev.lock").read_text(), re.M)
    }


def test_the_lock_file_holds_all_that_is_declared_within_its_bounds():
    from packaging.requirements import Requirement

    versions = locked()
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    needs = [need for need in map(Requirement, lines) if need.name != "acutance"]
    outside = [str(need) for need in needs if not need.specifier.contains(versions.get(need.name.lower(), "0"))]
    assert len(needs) > 30 and not outside, "make lock"
    assert "file:" not in (ROOT / "requirements-dev.lock").read_text()


def test_the_linter_before_a_commit_is_that_of_the_lock_file():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repos[0]["rev"] == "v" + locked()["ruff"]


def test_the_container_sets_up_what_the_makefile_does():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"].removeprefix("make ") in targets()


def test_repositories_of_plugins_call_the_workflow_of_this_version():
    from acutance.scaffold.package import WORKFLOW, Package

    files = Package("measure", "rise", "acme-rise", Path("acme-rise")).files
    workflow = yaml.safe_load(files[".github/workflows/tests.yml"])
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {"contents": "read"}
    assert job == {"uses": f"{WORKFLOW}@v{PROJECT['version']}", "with": {"names": "acme-rise/rise"}}
    assert PROJECT["urls"]["Homepage"] == "https://github.com/" + "/".join(WORKFLOW.split("/")[:2])
    called = yaml.safe_load((ROOT / WORKFLOW.split("/", 2)[2]).read_text())
    # YAML 1.1 takes "on" for true.
    assert set(job["with"]) <= set(called[True]["workflow_call"]["inputs"])
    assert tomllib.loads(files["pyproject.toml"])["project"]["license"] == "MIT" and files["LICENSE"].startswith("MIT")


def test_every_package_of_plugins_is_among_the_known_ones():
    text = (ROOT / "docs" / "known_plugins.md").read_text()
    own = {path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()}
    assert own == set(re.findall(r"`(acutance_\w+)`", text))
    samples = [path.partition("/") for path in re.findall(r"^\| \[[\w-]+\]\(\.\./tests/dists/([\w/.-]+)\)", text, re.M)]
    assert all((ROOT / "tests" / "dists" / "".join(path)).is_file() for path in samples)  # the site has no folders
    assert sorted(path[0] for path in samples) == sorted(
        path.name for path in (ROOT / "tests" / "dists").iterdir() if path.is_dir()
    )


def test_the_list_for_language_models_leads_to_pages_that_exist():
    text = (ROOT / "docs" / "llms.txt").read_text()
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \w", text, re.M)
    assert text.startswith("# acutance\n\n> ") and len(links) >= 15
    for link in links:
        assert (ROOT / "docs" / link).exists(), link


def test_the_extras_are_those_of_the_page_on_installing():
    table = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "install.md").read_text(), re.M))
    assert table == set(PROJECT["optional-dependencies"])


def test_completion_is_what_the_page_on_installing_says(tmp_path):
    text = (ROOT / "docs" / "install.md").read_text()
    shells = re.findall(r"_ACUTANCE_COMPLETE=(\w+)_source acutance", text)
    assert set(shells) == {"bash", "zsh", "fish"}
    code = "from acutance.cli import cli; cli(prog_name='acutance')"
    environment = {**os.environ, "_ACUTANCE_COMPLETE": "zsh_complete", "COMP_WORDS": "acutance corr", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert "correlate" in done.stdout, done


def test_no_table_needs_torch(tmp_path):
    """The way from a table of numbers to correlations, and what it imports."""
    table = tmp_path / "table.csv"
    table.write_text("model,sharpness,test_error\n" + "".join(f"m{i},{i * i % 7},{i}\n" for i in range(1, 9)))
    code = (
        "import sys; from acutance.cli import cli\n"
        f"cli(['correlate', {str(table)!r}, '--measures', 'sharpness', '--targets', 'test_error'], standalone_mode=False)\n"
        "assert not {'torch', 'torchvision', 'transformers', 'timm'} & set(sys.modules), set(sys.modules) & {'torch'}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "sharpness" in done.stdout, done


@pytest.mark.slow  # pip fetches hatchling to build with
def test_the_archive_of_the_sources_holds_what_its_tests_need(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT], check=True, capture_output=True
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    folder = tmp_path / f"acutance-{PROJECT['version']}"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:  # of a checkout, not of an archive
        files = [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
        assert not [name for name in files if not (folder / name).exists()]
    assert not list(folder.rglob("__pycache__")) and not (folder / "runs").exists()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(folder / name) for name in ("registry", "plugins"))}
    tests = (
        "tests/test_packaging.py",
        "tests/test_readme.py",
        "tests/test_dependencies.py",
        "tests/analysis/test_kendall.py",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
