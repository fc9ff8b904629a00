"""What all readers share: rows with their place, the tally of what was left out, edits, probes and the task.

Local JSON and JSONL are parsed here, so that one broken line costs one line; the ``datasets`` library's own reader
gives up on the whole file. Everything else (hub ids, Parquet, CSV) comes through the ``datasets`` library. Nothing is
unpickled and no code that comes with data is run.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ...benchmark.core.errors import KnbenchError
from ...benchmark.core.schema import SLOT, Case, EditRequest, JsonObject, Probe, Task, TaskKind, digest
from ...benchmark.scoring.criteria import CRITERIA

NEIGHBOURS = 4
VERSION = 1
TABLES = {".parquet": "parquet", ".csv": "csv"}
SUFFIXES = (".jsonl", ".json", *TABLES)
BOM = b"\xef\xbb\xbf"
NQ_TAG = "nq question: "
T = TypeVar("T")


@dataclass(frozen=True)
class ReadReport:
    """What became of a file's entries.

    Attributes:
        read: entries that were taken.
        skipped: entries that were left out.
        reasons: how often each thing was left out, by reason. A reason that begins with "probe" is of a single probe,
            whose entry was taken; the others add up to ``skipped``.
        first: place and reason of the first thing left out, such as "line 17: not JSON"; None when all was taken.
    """

    read: int
    skipped: int
    reasons: Mapping[str, int]
    first: str | None


class Place(NamedTuple):
    """Where an entry stands: its number from 0 on, and how a person would say it."""

    number: int
    label: str


class Row(NamedTuple):
    """One entry of a data set, as parsed."""

    place: Place
    value: dict[str, Any]


class Unfit(Exception):
    """An entry cannot become a case. The message is a reason that many entries may share: it quotes no data."""


class Tally:
    """Counts what is left out while a source is read."""

    def __init__(self) -> None:
        self.skipped = 0
        self.reasons: Counter[str] = Counter()
        self._first: tuple[int, str] | None = None

    def skip(self, place: Place, reason: str) -> None:
        """Note that an entry is left out."""
        self.skipped += 1
        self._note(place, reason)

    def skip_probe(self, place: Place, reason: str) -> None:
        """Note that one probe of an entry is left out."""
        self._note(place, f"probe left out: {reason}")

    def _note(self, place: Place, reason: str) -> None:
        self.reasons[reason] += 1
        if self._first is None or place.number < self._first[0]:  # lines are parsed before any entry is judged
            self._first = (place.number, f"{place.label}: {reason}")

    def report(self, read: int) -> ReadReport:
        """Return the account of a reading that took ``read`` entries."""
        first = self._first[1] if self._first else None
        return ReadReport(read, self.skipped, dict(sorted(self.reasons.items())), first)


def load_document(source: str) -> Any:
    """Return the JSON value of a file, or of a file on the hub (``owner/name:path/in/it.json``).

    Raises:
        KnbenchError: there is no such file, or it is no JSON; names file, line and reason.
    """
    path = Path(source)
    if path.is_file():
        content = _read_bytes(path)
    elif is_hub_id(source) and ":" in source:
        repository, file = source.split(":", 1)
        # As one text: the library's JSON reader refuses files whose fields change their type from entry to entry.
        options = {"data_files": f"hf://datasets/{repository}/{file}", "sample_by": "document", "split": "train"}
        content = "\n".join(_load_dataset(source, "text", **options)["text"]).encode()
    else:
        raise missing(source)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise KnbenchError(f"{source}: not valid JSON: {error}; fetch the file again") from None


def load_rows(source: str, tally: Tally, config: str | None = None) -> list[Row]:
    """Return the entries of a file or of a data set on the hub; what is no entry goes to the tally.

    Args:
        source: a .jsonl, .json, .parquet or .csv file, a hub id, or ``owner/name:path/in/it.json``.
        tally: takes the broken and foreign lines.
        config: the configuration of the hub's data set; all its splits are read.

    Raises:
        KnbenchError: there is nothing to read there, or not in a form that is known.
    """
    path = Path(source)
    if path.is_file() and path.suffix in TABLES:
        table = _load_dataset(source, TABLES[path.suffix], data_files=str(path), split="train")
        return _entries(table, tally, "row")
    if path.is_file() and (path.suffix != ".json" or _looks_like_lines(path)):
        return list(_parse_lines(_read_bytes(path), tally))
    if path.is_file() or ":" in source or not is_hub_id(source):
        document = load_document(source)
        return _entries(document if isinstance(document, list) else [document], tally, "entry")
    splits = _load_dataset(source, source, name=config)
    return _entries((row for split in splits for row in splits[split]), tally, "row")


def _entries(values: Iterable[Any], tally: Tally, unit: str) -> list[Row]:
    rows = []
    for number, value in enumerate(values):
        place = Place(number, f"{unit} {number + 1}")
        if isinstance(value, dict):
            rows.append(Row(place, value))
        else:
            tally.skip(place, "not a JSON object")
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KnbenchError(f"cannot read {path}: {error.strerror}") from None


def _looks_like_lines(path: Path) -> bool:
    """Tell whether a .json file holds one object a line, as some published ones do."""
    lines = [line for line in _read_bytes(path).removeprefix(BOM).splitlines() if line.strip()]
    try:
        return len(lines) > 1 and isinstance(json.loads(lines[0]), dict)
    except (ValueError, RecursionError):
        return False


def _parse_lines(content: bytes, tally: Tally) -> Iterator[Row]:
    for number, line in enumerate(content.removeprefix(BOM).split(b"\n")):
        if not line.strip():
            continue
        place = Place(number, f"line {number + 1}")
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            tally.skip(place, "not UTF-8")
        except (ValueError, RecursionError):
            tally.skip(place, "not JSON")
        else:
            if isinstance(value, dict):
                yield Row(place, value)
            else:
                tally.skip(place, "not a JSON object")


def is_hub_id(source: str) -> bool:
    """Tell whether a source that is no file here has the form ``owner/name`` or ``owner/name:path/in/it.json``."""
    repository, _, file = source.partition(":")
    form = re.fullmatch(r"\w[\w.-]*/[\w.-]+", repository)
    return form is not None and (bool(file) or not repository.endswith(SUFFIXES))


def _load_dataset(source: str, *args: str, **options: Any) -> Any:
    import datasets  # slow to import, and needed only where data is read through it

    try:
        return datasets.load_dataset(*args, **options)
    except Exception as error:  # the library and the hub's client raise a great many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        mend = (
            "fetch the file again"
            if Path(source).exists()
            else "it is no file or folder here either: check the name and the network, or give the path of a local copy"
        )
        raise KnbenchError(f"cannot read data set '{source}': {reason}; {mend}") from None


def missing(source: str) -> KnbenchError:
    """Build the error for a source that is not there."""
    return KnbenchError(f"no file or folder '{source}'; give the path of a local copy, or a hub id such as owner/name")


def single_file(folder: Path, reader: str, stem: str | None = None) -> str:
    """Return the only data file of a folder, or the one that is called ``stem``.

    Raises:
        KnbenchError: there is none, or more than one; names those there are.
    """
    there = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    found = [path for path in there if stem is None or path.stem == stem]
    if len(found) == 1:
        return str(found[0])
    wanted = f"one file '{stem}.*'" if stem else "exactly one data file"
    names = ", ".join(path.name for path in there[:8]) or "none"
    raise KnbenchError(f"{folder}: {reader} needs {wanted} ({', '.join(SUFFIXES)}); there: {names}; name the file")


def text(row: Mapping[str, Any], key: str) -> str:
    """Return a field that must hold text, without the white space around it.

    Raises:
        Unfit: the field is missing, empty, or no text.
    """
    if row.get(key) is None:
        raise Unfit(f"no field '{key}'")
    found = texts(row[key]) if isinstance(row[key], str) else ()
    if not found:
        raise Unfit(f"field '{key}' is no text")
    return found[0]


def texts(value: Any) -> tuple[str, ...]:
    """Return the strings in a string or in lists of them, however nested, without empty ones.

    >>> texts([["Damascus", "Sham city"], ["Aleppo "]])
    ('Damascus', 'Sham city', 'Aleppo')

    Raises:
        Unfit: a string is no valid Unicode: JSON can spell half a surrogate pair, which no file can hold.
    """
    if isinstance(value, list | tuple):
        return tuple(found for item in value for found in texts(item))
    if not isinstance(value, str):
        return ()
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unfit("text that is no valid Unicode") from None
    return (value.strip(),) if value.strip() else ()


def slotted(prompt: str, subject: str) -> str:
    """Return the prompt with ``{}`` for its first mention of the subject; a prompt that has its slot stays.

    >>> slotted("In which city is Annapolis Mall, near Annapolis?", "Annapolis")
    'In which city is {} Mall, near Annapolis?'

    Raises:
        Unfit: the subject does not occur in the prompt as a whole word.
    """
    if prompt.count(SLOT) == 1:
        return prompt
    found = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
    if found is None:
        raise Unfit("the subject does not occur in the prompt")
    return prompt[: found.start()] + SLOT + prompt[found.end() :]


def untagged(question: str) -> str:
    """Return a question of Natural Questions as one would write it; zsRE has it with a tag and without its mark.

    >>> untagged("nq question: who played desmond doss father")
    'who played desmond doss father?'
    """
    if not question.startswith(NQ_TAG):
        return question
    return question.removeprefix(NQ_TAG).rstrip(" ?") + "?"


def same(one: str, other: str) -> bool:
    """Tell whether two answers are the same but for case."""
    return one.casefold() == other.casefold()


def make_request(prompt: str, subject: str, new: str, true: str) -> EditRequest:
    """Return the edit, checked.

    Raises:
        Unfit: the edit breaks a rule of ``EditRequest``, or the new target equals the true one but for case.
    """
    if same(new, true):
        raise Unfit("the new target equals the true one")
    try:
        return EditRequest(prompt=prompt, subject=subject, target_new=new, target_true=true)
    except ValueError:
        raise Unfit("the prompt has not exactly one place for the subject") from None


Answers = tuple[str, ...]  # the answer, then other spellings that count too


@dataclass(frozen=True)
class Edit:
    """One entry of an editing data set in plain terms, whatever its fields were called.

    Attributes:
        prompt: with ``{}`` for the subject.
        true: the true answer and its other spellings.
        paraphrases: other wordings, subject filled in.
        locality: prompts that the edit must leave alone, each with its true answers.
        portability: prompts that follow from the edit, each with the answers expected after it.
    """

    subject: str
    prompt: str
    new: str
    true: Answers
    paraphrases: tuple[str, ...] = ()
    locality: tuple[tuple[str, Answers], ...] = ()
    portability: tuple[tuple[str, Answers], ...] = ()


def edit_case(edit: Edit, case_id: str, source: str, place: Place, tally: Tally) -> Case:
    """Return the case of an entry: reliability, paraphrase, neighbourhood and portability.

    Raises:
        Unfit: the entry has no true answer, or the new one is among the true ones.
    """
    if not edit.true:
        raise Unfit("no true answer, against which the new one could be weighed")
    if any(same(edit.new, true) for true in edit.true):
        raise Unfit("the new target equals the true one")
    new, true = edit.new, edit.true[0]
    request = make_request(edit.prompt.strip(), edit.subject, new, true)
    probes = [Probe("reliability", "completion", request.text, new, true, "new")]
    probes += [Probe("paraphrase", "completion", prompt, new, true, "new") for prompt in edit.paraphrases]
    for prompt, answers in edit.locality:
        probes.append(Probe("neighbourhood", "completion", prompt, answers[0], new, "unchanged", answers[1:]))
    for prompt, answers in edit.portability:
        probes.append(Probe("portability", "completion", prompt, answers[0], true, "new", answers[1:]))
    kept = []
    for probe in probes:
        # An answer that the rival spells in another way could never be told from it.
        if any(same(answer, probe.rival) for answer in (probe.target, *probe.aliases)):
            tally.skip_probe(place, "its target equals its rival")
        else:
            kept.append(probe)
    return Case(id=case_id, request=request, probes=tuple(kept), source=source)


class Ring(Generic[T]):
    """Items in an order that only their names decide; picks go round from a place that only the key decides.

    Sorting all items anew for each case, by a digest of both, would cost n^2 digests.
    """

    def __init__(self, items: Iterable[T], name: Callable[[T], str]) -> None:
        pairs = sorted(((digest(name(item)), item) for item in items), key=lambda pair: pair[0])
        self._digests = [pair[0] for pair in pairs]
        self._items = [pair[1] for pair in pairs]

    def pick(self, key: str, count: int, fits: Callable[[T], bool]) -> list[T]:
        """Return the first ``count`` items that fit, the same ones on every machine."""
        start = bisect(self._digests, digest(["pick", key]))
        found: list[T] = []
        for item in self._items[start:] + self._items[:start]:
            if len(found) == count:
                break
            if fits(item):
                found.append(item)
        return found


def build_cases(rows: Sequence[T], place: Callable[[T], Place], make: Callable[[T], Case], tally: Tally) -> list[Case]:
    """Make a case of every row that can be one; the others go to the tally, as do ids that stand twice."""
    cases: dict[str, Case] = {}
    for row in rows:
        try:
            case = make(row)
        except Unfit as unfit:
            tally.skip(place(row), str(unfit))
            continue
        if case.id in cases:
            tally.skip(place(row), "its id stands twice")
        else:
            cases[case.id] = case
    return list(cases.values())


def edit_task(
    rows: Sequence[Row], translate: Callable[[Row], Edit], tally: Tally, where: str, card: Card
) -> tuple[Task, ReadReport]:
    """Return the task of an editing data set, of which ``translate`` knows the fields; ids are case_id or place.

    Raises:
        KnbenchError: nothing could be read.
    """

    def make(row: Row) -> Case:
        number = row.value.get("case_id")
        if not isinstance(number, int) or isinstance(number, bool):
            number = row.place.number
        case_id = f"{card.name}-{number:05d}"
        return edit_case(translate(row), case_id, f"{card.title}, entry {number}", row.place, tally)

    return finish(build_cases(rows, _place, make, tally), tally, where, card)


def _place(row: Row) -> Place:
    return row.place


@dataclass(frozen=True)
class Card:
    """A task's provenance."""

    name: str
    kind: TaskKind
    title: str
    description: str
    licence: str
    citation: str
    source: str
    relation: str


def finish(
    cases: Sequence[Case], tally: Tally, where: str, card: Card, pairs: Sequence[JsonObject] = ()
) -> tuple[Task, ReadReport]:
    """Return the task over the cases, in a fixed shuffle, with the account of the reading.

    Raises:
        KnbenchError: there are neither cases nor minimal pairs.
    """
    report = tally.report(len(cases))
    if not cases and not pairs:
        raise nothing_read(where, report)
    # A fixed shuffle, so that the first cases are a fair sample and not the beginning of the file.
    ordered = tuple(sorted(cases, key=lambda case: digest([card.name, VERSION, case.id])))
    asked = {probe.criterion for case in ordered for probe in case.probes}
    criteria = tuple(name for name in CRITERIA if name in asked)
    return Task(**vars(card), version=VERSION, criteria=criteria, cases=ordered, pairs=tuple(pairs)), report


def nothing_read(where: str, report: ReadReport) -> KnbenchError:
    """Build the error for a source in which nothing fits the reader."""
    if not report.skipped:
        return KnbenchError(f"{where}: nothing could be read: it has no entries; check that it is the right file")
    often = max(report.reasons, key=lambda reason: report.reasons[reason])
    return KnbenchError(
        f"{where}: nothing could be read: {report.skipped} entries left out, most often: {often} (first: "
        f"{report.first}); check that it is the right file for this reader"
    )


def slug(name: str) -> str:
    """Return a name as task names are written.

    >>> slug("principle_A_case_1")
    'principle-a-case-1'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
