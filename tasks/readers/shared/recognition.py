"""Recognises published data sets by the fields of their records, for error messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Format(NamedTuple):
    """The form of a published data set.

    Attributes:
        title: the name of the data set.
        fields: the fields that identify its records.
        reader: the reader of the data set, with its selection if it needs one; None if there is no reader.
        note: the reason why there is no reader, or the file to use instead; empty if the title says enough.
    """

    title: str
    fields: tuple[str, ...]
    reader: str | None = None
    note: str = ""


# More specific forms come first.
FORMATS = (
    Format("zsRE", ("subject", "src", "alt"), "zsre"),
    Format("KnowEdit", ("subject", "prompt", "target_new"), "knowedit"),
    Format("BLiMP", ("sentence_good", "sentence_bad"), "blimp:PARADIGM"),
    Format("RippleEdits", ("example_type", "edit")),
    Format("RippleEdits", ("edit", "Relation_Specificity")),
    Format("WikiBio of KnowEdit", ("text", "labels", "concept"), note="it has passages instead of answers"),
    Format("ConvSent", ("ent", "pos", "neg"), note="it has sentiments instead of answers"),
    Format("the FEVER data of RLEdit", ("equiv_prompt", "unrel_prompt")),
    Format("WikiBigEdit", ("subject", "update", "rephrase")),
    Format("UniEdit", ("edit", "generality", "locality")),
    Format("UnKE", ("question", "para_question", "answer")),
    Format("QAEdit", ("prompt", "target", "subject"), note="it has no answer before the edit"),
    Format("JBLiMP", ("good_sentence", "bad_sentence")),
    Format("HalluEditBench", ("subject", "relation", "object", "question")),
    Format(
        "the patterns of ParaRel",
        ("pattern", "lemma"),
        note="the pararel reader needs the filled patterns, one JSON object that maps relations to lists of bags "
        "(data_all_allbags.json of the knowledge-neuron papers)",
    ),
)
RELATION = re.compile(r"P\d+")


def recognise(record: Any) -> Format | None:
    """Return the form of a data set that a record, or a whole file of ParaRel, has; None if it is unknown."""
    if not isinstance(record, Mapping):
        return None
    if "requested_rewrite" in record:
        if isinstance(record["requested_rewrite"], list):
            return Format("MQuAKE", ("requested_rewrite",))
        return Format("CounterFact", ("requested_rewrite",), "counterfact")
    if record and all(RELATION.fullmatch(str(key)) and isinstance(bags, list) for key, bags in record.items()):
        return Format("ParaRel", (), "pararel:RELATION")
    return next((form for form in FORMATS if record.keys() >= set(form.fields)), None)


def suggestion(records: Iterable[Any], reader: str) -> str | None:
    """Return advice for a file that a reader cannot read, or None if its records have an unknown form.

    Args:
        records: parsed records.
        reader: the reader that was used.

    >>> suggestion([{"sentence_good": "He sleeps.", "sentence_bad": "He sleep."}], "zsre")
    'this looks like BLiMP: use --tasks blimp:PARADIGM'
    """
    forms = Counter(form for form in map(recognise, records) if form is not None)
    if not forms:
        return None
    form = forms.most_common(1)[0][0]
    if form.reader is not None and form.reader.partition(":")[0] == reader:
        return None
    if form.reader is not None:
        return f"this looks like {form.title}: use --tasks {form.reader}"
    return f"this looks like {form.title}, which has no reader" + (f": {form.note}" if form.note else "")
