"""Reads back what trackers have, each with its own library: {(run, metric, step): [values in their order]}."""

import json
from collections import defaultdict

import pandas as pd


def read_csv(folder, project):
    table = pd.read_csv(folder / "values.csv", keep_default_na=False)
    found = defaultdict(list)
    for row in table.to_dict("records"):
        for part in ("value", "stderr"):
            if row["status"] == "ok" and row[part] != "":
                found[row["run"], f"{row['metric']}/{part}", row["step"]].append(float(row[part]))
        if row["status"] != "ok":
            found[row["run"], f"{row['metric']}/status", row["step"]].append(row["message"])
    return found


def read_tensorboard(folder, project):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = defaultdict(list)
    for inner in (folder / "tensorboard").iterdir():
        events = EventAccumulator(str(inner), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                found[inner.name, tag, event.step].append(event.value)
        for tag in events.Tags()["tensors"]:
            for event in events.Tensors(tag):
                text = event.tensor_proto.string_val[0].decode()
                found[inner.name, tag.removesuffix("/text_summary"), event.step].append(text)
    return found


def records_of(data):
    """Yield the records of a file of wandb: blocks of 32 KiB, each record in chunks with checksum, length and kind."""
    at, parts = 7, []
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def read_wandb(folder, project):
    """All offline folders of a run together, as ``wandb sync`` sends them."""
    from wandb.proto import wandb_internal_pb2

    found = defaultdict(list)
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        name, ids = "", path.stem
        for data in records_of(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name
                assert record.run.project == project and f"run-{record.run.run_id}" == ids
            elif kind == "history":
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                step = row.get("step")
                for key, value in row.items():
                    if key != "step" and not key.startswith("_"):
                        found[name, key, step].append(value)
            elif kind == "summary":
                for item in record.summary.update:
                    key = item.key or "/".join(item.nested_key)
                    if key.endswith("/status"):
                        found[name, key, None].append(json.loads(item.value_json))
    return found


def wandb_ids(folder):
    return {path.stem for path in (folder / "wandb").glob("offline-run-*/*.wandb")}


def read_mlflow(folder, project):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(project)
    found = defaultdict(list)
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.status == "FINISHED"
        for key in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, key):
                found[run.info.run_name, key, point.step].append(point.value)
        for key, text in run.data.tags.items():
            if key.endswith("/status"):
                found[run.info.run_name, key, None].append(text)
        for key, text in run.data.params.items():
            found[run.info.run_name, f"param {key}", None].append(text)
    return found


def read_trackio(folder, project):
    from trackio import sqlite_storage

    before, sqlite_storage.TRACKIO_DIR = sqlite_storage.TRACKIO_DIR, folder / "trackio"
    found = defaultdict(list)
    try:
        storage = sqlite_storage.SQLiteStorage
        for record in storage.get_run_records(project):
            for row in storage.get_logs(project, record["name"], run_id=record["id"]):
                for key, value in row.items():
                    if key not in ("step", "timestamp"):
                        found[record["name"], key, row["step"]].append(value)
    finally:
        sqlite_storage.TRACKIO_DIR = before
    return found
