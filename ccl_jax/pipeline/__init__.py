"""What the verbs do, one module each: from a checked config and a workdir to files in the workdir.

    <workdir>/config.json       the config, checked on resume
    <workdir>/data/             documents, spans, texts, tokenised examples, reports
    <workdir>/base/             the stand-in for pretraining, where the config asks for one
    <workdir>/checkpoints/, metrics.jsonl, dev.jsonl, skipped.jsonl, goodput.json, tensorboard/
    <workdir>/eval/<split>/     predictions.jsonl, metrics.json, audit.html

In a run of several processes, process 0 writes and the others wait for it.
"""
