"""Readers of published data sets, one file per data set, registered as entry points of ``knbench.readers``.

A reader turns a data set from the Hugging Face Hub, a file or a folder into a task. Each module defines ``READER``, a
:class:`~knbench.tasks.readers.shared.published_task.PublishedReader`, to which its entry point refers.
"""
