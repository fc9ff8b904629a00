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
    Format("EVOKE", ("requested_rewrite", "prefix_distraction"), "evoke"),
    Format("EVOKE", ("requested_rewrite", "relation_specificity"), "evoke"),
    Format("BAKE", ("requested_rewrite", "reverse_qa"), "bake"),
    Format("BAKE", ("requested_rewrite", "reverse_judge"), "bake"),
    Format("CounterFact", ("requested_rewrite",), "counterfact"),
    Format("the questions of ENCORE on CounterFact", ("subject", "answer", "qna_question"), "counterfact"),
    Format("zsRE", ("subject", "src", "alt"), "zsre"),
    Format("zsRE with evidence (SA-MCQ)", ("subject", "src", "counter_answer"), "zsre"),
    Format("KnowEdit", ("subject", "prompt", "target_new"), "knowedit"),
    Format("the sentences of KnowEdit on WikiBio", ("text", "labels", "concept"), "knowedit"),
    Format("ConvSent", ("ent", "pos", "neg"), "knowedit"),
    Format("the facts of Sanitation", ("K_F", "K_R"), "knowedit:sanitation"),
    Format("BLiMP", ("sentence_good", "sentence_bad", "one_prefix_method"), "blimp:PARADIGM"),
    Format("SLING", ("sentence_good", "sentence_bad", "pair_ID"), "sling"),
    Format("ZhoBLiMP", ("sentence_good", "sentence_bad", "phenomenon", "UID"), "zhoblimp"),
    Format("BLiMP", ("sentence_good", "sentence_bad"), "blimp:PARADIGM"),
    Format("JBLiMP", ("good_sentence", "bad_sentence"), "jblimp"),
    Format("RuBLiMP", ("source_sentence", "target_sentence", "PID"), "rublimp"),
    Format("MultiBLiMP", ("sen", "wrong_sen", "prefix"), "multiblimp"),
    Format("CLAMS", ("grammatical", "sentence"), "clams"),
    Format("RippleEdits", ("example_type", "edit"), "rippleedits"),
    Format("RippleEdits", ("edit", "Relation_Specificity"), "rippleedits"),
    Format("FEVER for model editing", ("prompt", "equiv_prompt", "unrel_prompt"), "fever"),
    Format("WikiBigEdit", ("subject", "update", "rephrase"), "wikibigedit"),
    Format("UniEdit", ("edit", "generality", "locality")),
    Format("UnKE", ("question", "para_question", "answer"), "unke"),
    Format("QAEdit", ("prompt", "target", "subject"), "qaedit"),
    Format("HalluEditBench", ("subject", "relation", "object", "question"), "halluedit"),
    Format(
        "the triplets of HalluEditBench",
        ("subjectLabel", "relation", "objectLabel"),
        note="it has no questions; use the files of the folder 'questions'",
    ),
    Format(
        "the completion prompts of ENCORE on zsRE",
        ("question", "text_completion_prompt"),
        note="it has no answers; it accompanies zsRE",
    ),
    Format(
        "annotations of LEME",
        ("example_id", "classification", "method"),
        note="it has judgements of generated texts, not edits",
    ),
    Format("the answers of AnyEdit's EditEverything", ("id", "question", "answer"), "unke"),
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
    rewrites = record.get("requested_rewrite")
    edits = rewrites if isinstance(rewrites, list) else [rewrites]
    if any(isinstance(edit, Mapping) and "fact_new_uns" in edit for edit in edits):
        return Format("AKEW", ("requested_rewrite",), "akew")
    if isinstance(rewrites, list):
        return Format("MQuAKE", ("requested_rewrite",), "mquake")
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
